"""The worker as somebody expects it who knows Prefect's others: cancelling, logs, steps, states."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from typing import TypeVar

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)

from blocks import context, grant, history, systems
from deployments.stack import Stack
from tests.end_to_end.evening import Evening
from tests.end_to_end.evening import evening as an_evening
from tests.end_to_end.nights import PATIENCE, Nights, waits_until
from tests.locks import is_released

SOON = 5.0
"""Seconds, at most, from the button to the end of the run, and until it shows in the API."""

STEPS = [
    "run_batch",
    "prepare_batch_snapshot",
    "close_batch",
    "record_batch_outcome",
    "scheduled_done",
]

Found = TypeVar("Found")


@pytest.fixture(scope="module")
async def evening(installation: Stack) -> AsyncIterator[Evening]:
    async with an_evening(installation) as tonight:
        yield tonight


@pytest.fixture
async def client() -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


async def soon(
    look: Callable[[], Awaitable[list[Found]]], shows: Callable[[list[Found]], bool]
) -> list[Found]:
    """What is found as soon as it shows what is wanted; the server writes it down a bit later."""
    async with asyncio.timeout(SOON):
        while True:
            found = await look()
            if shows(found):
                return found
            await asyncio.sleep(0.2)


async def cancelled_soon(nights: Nights, client: PrefectClient) -> None:
    """The run was stopped soon after it was asked to, and closed nothing."""
    run = await nights.reach("Cancelled", patience=SOON)
    states = await soon(
        lambda: client.read_flow_run_states(run.id),
        lambda states: states[-1].message == "Cancelled while it was executed.",
    )
    asked, done = states[-2:]
    # Prefect need not wait for a worker where the run has only just been woken.
    assert asked.name in {"Cancelling", "Cancelled"}
    assert done.name == "Cancelled"
    assert done.timestamp - asked.timestamp < timedelta(seconds=SOON)
    assert not nights.closes()


async def test_a_waiting_run_that_is_cancelled_asks_nothing_of_the_orders_api(
    evening: Evening,
) -> None:
    run, *_ = await evening.waiting.runs()
    assert run.state_name == "Cancelled"
    tenant, events = evening.waiting.binding.tenant_id, evening.waiting.sandbox.events()
    kinds = [event.kind for event in events if event.tenant_id == tenant]
    assert kinds == ["token.exchange", "token.refresh"]
    assert not evening.waiting.closes()


async def test_a_night_whose_waiting_run_was_cancelled_is_recorded_though_no_later_one_comes(
    evening: Evening,
) -> None:
    binding = evening.waiting.binding
    async with asyncio.timeout(PATIENCE):
        while (outcome := (await context.load(binding)).last_batch) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    assert (outcome.status, outcome.inferred) == ("SKIPPED", False)
    assert "Cancelled" in (outcome.reason or "")
    assert await history.nights(binding) == [outcome]


async def test_a_run_that_is_cancelled_while_the_orders_api_hangs_ends_within_seconds(
    evening: Evening, client: PrefectClient
) -> None:
    await cancelled_soon(evening.executing, client)
    assert await is_released(f"lock-{evening.executing.binding.slug}")


async def test_a_run_that_is_cancelled_during_its_refresh_loses_neither_token_nor_lock(
    evening: Evening, client: PrefectClient
) -> None:
    await cancelled_soon(evening.refreshing, client)
    assert await is_released(f"lock-{evening.refreshing.binding.slug}")
    # The server rotates strictly: this works with the token that came last, and no other.
    await grant.refresh(evening.refreshing.binding, await systems.oauth_server())
    assert evening.refreshing.refreshes() == 2


async def test_a_worker_goes_on_with_the_runs_beside_those_that_are_cancelled(
    evening: Evening,
) -> None:
    (run, *_), (close,) = await evening.left_alone.runs(), evening.left_alone.closes()
    assert close.occurrence == run.expected_start_time
    assert evening.worker.process.poll() is None


async def test_what_a_run_and_its_steps_log_is_found_through_the_api(
    evening: Evening, client: PrefectClient
) -> None:
    run, *_ = await evening.left_alone.runs()
    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    logs = await soon(
        lambda: client.read_logs(of_run),
        lambda logs: any(it.message.startswith("Finished in state Completed('C") for it in logs),
    )
    assert logs[0].message.startswith("Beginning flow run ")
    (refreshed,) = [it for it in logs if it.message.startswith("Refreshed; ")]
    assert refreshed.task_run_id
    assert (await client.read_task_run(refreshed.task_run_id)).name.startswith("run_batch")


async def test_every_step_of_a_run_is_shown_once_with_when_it_began_and_ended(
    evening: Evening, client: PrefectClient
) -> None:
    run, *_ = await evening.left_alone.runs()
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    steps = await soon(
        lambda: client.read_task_runs(flow_run_filter=of_run),
        lambda steps: len([it for it in steps if it.state_name == "Completed"]) >= len(STEPS),
    )
    shown = sorted((it.start_time, it.end_time, it.name) for it in steps if it.start_time)
    assert [name.rpartition("-")[0] for _, _, name in shown] == STEPS
    assert all(end and start <= end for start, end, _ in shown)
    assert {it.state_name for it in steps} == {"Completed"}


async def test_the_history_of_a_run_shows_what_it_waited_for_and_until_when(
    evening: Evening, client: PrefectClient
) -> None:
    run, *_ = await evening.left_alone.runs()
    states = await client.read_flow_run_states(run.id)
    shown = [it for it in states if it.name not in {"Pending", "Resuming"}]
    names = [it.name for it in shown]
    assert names == ["Scheduled", "WaitForUpstream", "ReplicationDelay", "Completed"]
    for wait, following in pairwise(shown[1:]):
        assert wait.timestamp < waits_until(wait) <= following.timestamp
