"""Nights whose runs people end in Prefect while no process executes them; also the last ones."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Completed, Failed

from blocks import deployment
from deployments.stopped import StoppedRuns
from flows.daily_close import daily_close
from tests.flows.batch import Batch

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def pool(prefect_api: None) -> AsyncIterator[str]:
    """A work pool whose runs are this test's only."""
    name = f"pool-{uuid4().hex[:8]}"
    async with get_client() as client:
        await client.create_work_pool(WorkPoolCreate(name=name, type="batch-close"))
    await (await daily_close.ato_deployment(deployment.TEMPLATE, work_pool_name=name)).aapply()
    yield name
    await (await daily_close.ato_deployment(deployment.TEMPLATE)).aapply()


async def end_by_hand(batch: Batch, state: State[Any], number: int = 1) -> None:
    """Set the state of a night's run, as somebody does in Prefect's UI."""
    run = await batch.night(number)
    async with get_client() as client:
        await client.set_flow_run_state(run.id, state, force=True)


async def look(pool: str, runs: StoppedRuns | None = None) -> None:
    """Look for ended runs, as a worker does now and then."""
    async with get_client() as client:
        await (runs or StoppedRuns()).record(client, pool)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (Completed(), ("SKIPPED", "Its run ended as Completed.")),
        (Failed(message="Enough."), ("FAILED", "Its run ended as Failed: Enough.")),
        (Cancelled(message="No."), ("SKIPPED", "Its run ended as Cancelled: No.")),
        (
            State(type=StateType.CRASHED, name="Crashed", message="Gone."),
            ("FAILED", "Its run ended as Crashed: Gone."),
        ),
    ],
    ids=["completed", "failed", "cancelled", "crashed"],
)
async def test_the_last_night_is_recorded_whichever_state_somebody_sets_its_run_to(
    batch: Batch, pool: str, state: State[Any], told: tuple[str, str]
) -> None:
    await batch.configure_past(max_runs=1)
    await end_by_hand(batch, state)

    await look(pool)

    last = (await batch.context()).last_batch
    assert last is not None
    assert (last.status, last.reason) == told
    assert await batch.history() == {1: told[0]}


async def test_a_waiting_night_that_somebody_completes_is_recorded(batch: Batch, pool: str) -> None:
    await batch.configure_past(max_runs=1, upstream_wait_duration="PT2M")
    assert (await batch.run_night()).state_name == "WaitForUpstream"
    await end_by_hand(batch, Completed())

    await look(pool)

    assert await batch.history() == {1: "SKIPPED"}


async def test_a_night_that_somebody_ended_long_before_it_was_due_is_recorded_when_it_is(
    batch: Batch, pool: str
) -> None:
    await batch.configure_past(first_due=-DAY, max_runs=1)
    await end_by_hand(batch, Cancelled(message="Not tomorrow."))
    runs = StoppedRuns()
    await look(pool, runs)
    assert (await batch.context()).last_batch is None

    batch.clock.ahead = DAY + MINUTE
    await look(pool, runs)

    assert await batch.history() == {1: "SKIPPED"}


async def test_what_a_night_recorded_itself_is_left_as_it_is(batch: Batch, pool: str) -> None:
    await batch.configure_past(first_due=DAY + MINUTE, max_runs=2)
    batch.clock.ahead = -DAY
    assert (await batch.run_night(1)).state.is_completed()
    batch.clock.ahead = timedelta(0)
    batch.sandbox.fault("orders.close", "status", tenant_id=batch.binding.tenant_id, status=403)
    assert (await batch.run_night(2)).state.is_failed()
    told = await batch.rows()

    await look(pool)

    assert await batch.rows() == told
    assert await batch.history() == {1: "CLOSED", 2: "FAILED"}
