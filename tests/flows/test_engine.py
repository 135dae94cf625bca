"""Runs as the batch-close worker executes them, against a real Prefect API."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Pending

from deployments.engine import NotPlainError, execute, require_plain
from flows.daily_close import daily_close
from tests.flows.batch import Batch

WAITS = {"upstream_wait_duration": "PT40S", "replication_delay_duration": "PT30S"}


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


async def take(client: PrefectClient, run: FlowRun) -> FlowRun:
    """Take the run as the worker does, and execute it up to its end or its next wait."""
    run.state = Pending(name="Resuming")
    await client.set_flow_run_state(run.id, run.state, force=True)
    await execute(daily_close, run, client)
    return await client.read_flow_run(run.id)


async def begin(client: PrefectClient, batch: Batch) -> FlowRun:
    """Configure the batch with waits and have its first night begun."""
    await batch.configure_past(**WAITS)
    run = await batch.night(1)
    batch.clock.move_to(run.expected_start_time + timedelta(seconds=1))
    return await take(client, run)


async def test_a_run_that_somebody_had_meanwhile_goes_on_with_what_is_stored(
    client: PrefectClient, batch: Batch
) -> None:
    run = await begin(client, batch)
    asleep = run.model_copy()
    batch.clock.move_to(run.state.state_details.scheduled_time)
    await batch.wake(run)  # another process, which takes the snapshot

    run = await take(client, await client.read_flow_run(asleep.id))

    assert run.state_name == "ReplicationDelay"
    assert len(batch.requests("orders.prepareSnapshot")) == 1


@pytest.mark.parametrize(
    "meanwhile", [Cancelled(), State(type=StateType.PAUSED, name="Suspended")], ids=str
)
async def test_a_run_that_is_stopped_while_it_is_executed_asks_nothing_and_stays_so(
    client: PrefectClient, batch: Batch, meanwhile: State[Any]
) -> None:
    run = await begin(client, batch)
    batch.clock.move_to(run.state.state_details.scheduled_time)
    await client.set_flow_run_state(run.id, meanwhile, force=True)

    await execute(daily_close, run, client)

    assert (await client.read_flow_run(run.id)).state_name == meanwhile.name
    assert not batch.requests("orders.prepareSnapshot")


@pytest.mark.parametrize(
    ("outcome", "hook", "ending"),
    [(None, "completed", "COMPLETED"), (ValueError("no"), "failed", "FAILED")],
)
async def test_a_flow_ends_as_it_does_in_prefects_own_engine(
    client: PrefectClient, outcome: Exception | None, hook: str, ending: str
) -> None:
    seen: list[str] = []

    def look(name: str) -> Any:
        def told(_flow: object, _run: FlowRun, _state: State[Any]) -> None:
            seen.append(name)

        return [told]

    @flow(
        flow_run_name="night {number}",
        on_running=look("running"),
        on_completion=look("completed"),
        on_failure=look("failed"),
    )
    async def small(number: int) -> None:
        if outcome:
            raise outcome

    run = await client.create_flow_run(small, parameters={"number": 7})
    await execute(small, run, client)
    run = await client.read_flow_run(run.id)

    assert (run.name, run.state_type) == ("night 7", ending)
    assert seen == ["running", hook]


async def test_a_run_whose_name_cannot_be_made_up_is_executed_all_the_same(
    client: PrefectClient,
) -> None:
    @flow(flow_run_name="night {number}")
    async def unnamed() -> None: ...

    run = await client.create_flow_run(unnamed)
    await execute(unnamed, run, client)

    assert (await client.read_flow_run(run.id)).state_type == "COMPLETED"


def test_a_flow_that_needs_prefects_own_engine_is_refused() -> None:
    @flow(retries=3)
    async def again() -> None: ...

    with pytest.raises(NotPlainError, match="another type"):
        require_plain(again)
