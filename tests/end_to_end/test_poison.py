"""Runs that nobody can read stop nobody else's: they are set aside, and the worker says so once."""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse

from deployments.journeys import DEPLOYMENT
from deployments.sandbox.client import SandboxClient
from deployments.stack import WORK_POOL, Part
from deployments.unreadable import SET_ASIDE
from tests.end_to_end.nights import Nights, in_seconds, until

POISONS = {
    "an integer beyond 64 bits": "18446744073709551616",
    "199 levels": "[" * 199 + "]" * 199,
    "300 levels": "[" * 300 + "]" * 300,
    "half a character": r'"\ud800"',
}

SWEEPS_OFTEN = {"BATCH_CLOSE_SWEEP_SECONDS": "10"}
"""Journeys that are still to come are looked at then."""

ALLOWED = timedelta(seconds=8)
"""How late a neighbour's close may be: it waits twice for a second, besides."""


async def poisoned_run(of: DeploymentResponse, poison: str, due: datetime) -> UUID:
    """A run of the deployment with such a parameter, by Prefect's own API.

    Prefect stores it, and may fail to answer.
    """
    name = f"poisoned-{uuid4()}"
    known = {
        "flow_id": str(of.flow_id),
        "deployment_id": str(of.id),
        "work_pool_name": WORK_POOL,
        "name": name,
        "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": due.isoformat()}},
    }
    body = f'{json.dumps(known)[:-1]}, "parameters": {{"configured": {{"x": {poison}}}}}}}'
    async with get_client() as client:
        with suppress(httpx.HTTPStatusError):
            await client.request("POST", "/flow_runs/", content=body)
        wanted = {"flow_runs": {"name": {"any_": [name]}}}
        listed = await client.request("POST", "/ui/flow_runs/history", json=wanted)
    return UUID(listed.json()[0]["id"])


async def runs_of_the_pool() -> dict[UUID, FlowRun]:
    """Its latest runs, as whoever lists them gets them."""
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL]))
    async with get_client() as client:
        return {run.id: run for run in await client.read_flow_runs(work_pool_filter=pool)}


@pytest.mark.parametrize("is_there_before", [True, False])
async def test_poisoned_runs_are_set_aside_and_a_neighbours_night_closes_on_time(
    start_worker: Callable[..., Part], sandbox: SandboxClient, is_there_before: bool
) -> None:
    poisoned, innocent = Nights(sandbox), Nights(sandbox)
    for nights in (poisoned, innocent):
        await nights.configure(in_seconds(3600))
    worker = None if is_there_before else start_worker(**SWEEPS_OFTEN)
    async with get_client() as client:
        journeys = await client.read_deployment_by_name(DEPLOYMENT)
    bad = [
        await poisoned_run(await poisoned.deployment(), poison, in_seconds(0))
        for poison in POISONS.values()
    ]
    bad.append(await poisoned_run(journeys, POISONS["300 levels"], in_seconds(7200)))

    due = in_seconds(12)
    await innocent.reschedule(due)
    worker = worker or start_worker(**SWEEPS_OFTEN)
    await innocent.reach("Completed")
    (close,) = innocent.closes()
    assert close.closed_at - (due + timedelta(seconds=2)) < ALLOWED
    assert worker.process.poll() is None

    # One that it could read it has executed, which fails.
    await until("the others are set aside", lambda: worker.log.read_text().count(SET_ASIDE) >= 4)
    listed = await runs_of_the_pool()
    assert all(listed[run].state.is_failed() for run in bad)
    log = worker.log.read_text()
    assert max(log.count(f"Run {run}: {SET_ASIDE}") for run in bad) == 1
