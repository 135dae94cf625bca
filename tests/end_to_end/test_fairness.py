"""One tenant's trouble is not another's: a place that is only waited in is lent."""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta

import pytest
from prefect.client.orchestration import get_client

from blocks import context
from deployments.sandbox.client import SandboxClient
from deployments.stack import Part
from flows.night import DELETED
from tests.end_to_end.nights import Nights, in_seconds, paused

HANG = 9.0
"""Seconds that the Orders API takes to answer for one tenant."""

ALLOWED = timedelta(seconds=7)
"""What the other may lose by it."""


async def test_a_tenant_whose_orders_api_hangs_does_not_hold_up_another(
    start_worker: Callable[..., Part], sandbox: SandboxClient
) -> None:
    hanging, other = everyone = [Nights(sandbox), Nights(sandbox)]
    tenant = hanging.binding.tenant_id
    sandbox.fault("orders.prepareSnapshot", "slow", tenant_id=tenant, seconds=HANG)
    start_worker(limit=1)
    for nights in everyone:
        await nights.configure(in_seconds(3600))
    due = in_seconds(4)
    # Both fall due together; the one that will hang is done waiting first, and has the place.
    await hanging.reschedule(due, upstreamWaitDuration="PT5S")
    await other.reschedule(due, upstreamWaitDuration="PT6S")

    await other.reach("Completed")
    (close,) = other.closes()
    assert close.closed_at - (due + timedelta(seconds=6 + 1)) < ALLOWED
    await hanging.reach("Completed")
    assert len(hanging.closes()) == 1


@pytest.mark.parametrize(
    ("is_paused", "state"), [(False, "Skipped"), (True, "Cancelled")], ids=["in memory", "stopped"]
)
async def test_nights_whose_deployments_were_deleted_end_and_hold_up_nobody(
    start_worker: Callable[..., Part], sandbox: SandboxClient, is_paused: bool, state: str
) -> None:
    *deleted, other = everyone = [Nights(sandbox) for _ in range(4)]
    start_worker(limit=2)
    for nights in everyone:
        await nights.configure(in_seconds(3600))
    for nights in deleted:
        await nights.reschedule(in_seconds(2), upstreamWaitDuration="PT12S")
    runs = [await nights.reach("WaitForUpstream") for nights in deleted]
    async with get_client() as client, paused(client) if is_paused else nullcontext():
        if is_paused:
            runs = [await nights.reach("WorkPoolPaused") for nights in deleted]
        for run in runs:
            await client.delete_deployment(run.deployment_id)
    async with get_client() as client:
        await other.reschedule(in_seconds(12))

        await other.reach("Completed")
        for nights, run in zip(deleted, runs, strict=True):
            while not (stored := await client.read_flow_run(run.id)).state.is_final():  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            last = (await context.load(nights.binding)).last_batch
            assert (stored.state_name, stored.state.message) == (state, DELETED)
            assert last is not None
            assert (last.status, last.reason) == ("SKIPPED", DELETED)
            assert not nights.closes()
