"""How a deployed run waits: it ends, holds nothing, and goes on where it was."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_async
from prefect.states import Scheduled

from blocks import grant as grants
from blocks import systems
from flows.daily_close import daily_close
from tests.flows.batch import Batch, is_alive

UPSTREAM = timedelta(seconds=40)
REPLICATION = timedelta(seconds=30)
WAITS = {"upstream_wait_duration": "PT40S", "replication_delay_duration": "PT30S"}


async def begin(batch: Batch, late: timedelta = timedelta(seconds=1), **changed: Any) -> Any:
    """Configure the batch with waits and begin its first night, this late."""
    await batch.configure_past(**WAITS | changed)
    run = await batch.night(1)
    batch.clock.move_to(run.expected_start_time + late)
    return await batch.wake(run)


async def test_a_run_waits_for_upstream_from_its_scheduled_start_on(batch: Batch) -> None:
    run = await begin(batch)

    assert (run.state.type, run.state.name) == ("SCHEDULED", "WaitForUpstream")
    assert run.state.state_details.scheduled_time == run.expected_start_time + UPSTREAM
    assert run.state.message == f"until {run.expected_start_time + UPSTREAM:%F %T} UTC"
    assert not batch.requests("orders.prepareSnapshot")


async def test_a_waiting_run_ends_so_that_it_holds_no_worker(batch: Batch) -> None:
    await batch.configure_past(**WAITS)
    run = await batch.night(1)
    batch.clock.move_to(run.expected_start_time)
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Scheduled(), force=True)

    with pytest.raises(Pause):
        await run_flow_async(daily_close, flow_run=run, parameters=run.parameters)


async def test_a_woken_run_waits_for_replication_from_its_snapshot_on(batch: Batch) -> None:
    run = await begin(batch)
    batch.clock.move_to(run.expected_start_time + UPSTREAM)

    run = await batch.wake(run)

    assert (run.state.type, run.state.name) == ("SCHEDULED", "ReplicationDelay")
    snapshot_at = (await batch.context()).nights[0].snapshot_at
    assert run.state.state_details.scheduled_time == snapshot_at + REPLICATION
    assert not batch.closes()


async def test_a_run_goes_on_where_it_was_after_each_wait(batch: Batch) -> None:
    run = await begin(batch)
    for _ in range(2):
        batch.clock.move_to(run.state.state_details.scheduled_time)
        run = await batch.wake(run)

    assert run.state.is_completed(), run.state.message
    assert len(batch.requests("token.refresh")) == 1
    assert len(batch.requests("orders.prepareSnapshot")) == 1
    assert len(batch.closes()) == 1
    assert (await batch.context()).last_batch.status == "CLOSED"


async def test_a_run_woken_too_early_waits_for_the_same_moment_again(batch: Batch) -> None:
    run = await begin(batch)
    until = run.state.state_details.scheduled_time

    run = await batch.wake(run)

    assert run.state.name == "WaitForUpstream"
    assert run.state.state_details.scheduled_time == until
    assert len(batch.requests("token.refresh")) == 1
    assert not batch.requests("orders.prepareSnapshot")


async def test_a_late_run_waits_for_upstream_only_what_is_left(batch: Batch) -> None:
    run = await begin(batch, late=timedelta(seconds=30))

    assert run.state.name == "WaitForUpstream"
    assert run.state.state_details.scheduled_time == run.expected_start_time + UPSTREAM


async def test_a_run_later_than_upstream_takes_its_snapshot_at_once(batch: Batch) -> None:
    run = await begin(batch, late=timedelta(minutes=10))

    assert run.state.name == "ReplicationDelay"
    snapshot_at = (await batch.context()).nights[0].snapshot_at
    assert run.state.state_details.scheduled_time == snapshot_at + REPLICATION


async def test_a_token_that_dies_while_a_run_waits_is_refreshed_once(batch: Batch) -> None:
    run = await begin(batch)
    batch.sandbox.expire_access_tokens()
    for _ in range(2):
        batch.clock.move_to(run.state.state_details.scheduled_time)
        run = await batch.wake(run)

    assert run.state.is_completed(), run.state.message
    assert len(batch.requests("token.refresh")) == 2
    assert [event.status for event in batch.requests("orders.prepareSnapshot")] == [401, 200]
    assert len(batch.closes()) == 1


async def test_a_night_closed_by_hand_while_its_run_waits_is_closed_once(batch: Batch) -> None:
    run = await begin(batch, replication_delay_duration="PT0.01S")
    batch.clock.move_to(run.expected_start_time + UPSTREAM)
    assert (await batch.run_by_hand()).is_completed()

    assert (await batch.wake(run)).state.is_completed()

    assert len(batch.closes()) == 1
    assert len(batch.requests("orders.prepareSnapshot")) == 1


async def test_a_run_that_wakes_when_the_next_night_is_due_is_skipped(batch: Batch) -> None:
    run = await begin(batch)
    batch.clock.move_to(run.expected_start_time + timedelta(days=1))

    run = await batch.wake(run)

    assert run.state.name == "Skipped"
    assert not batch.requests("orders.prepareSnapshot")


async def test_a_flow_called_from_python_waits_in_its_own_process(batch: Batch) -> None:
    await batch.configure_past(upstream_wait_duration="PT1S", replication_delay_duration="PT0.5S")

    state = await batch.run_by_hand()

    assert state.is_completed(), state.message
    snapshot, close = (
        batch.requests(kind)[0].at for kind in ("orders.prepareSnapshot", "orders.close")
    )
    assert close - snapshot >= timedelta(seconds=0.5)
    assert close <= datetime.now(UTC)


async def test_a_grant_replaced_while_a_run_waits_is_what_it_closes_with(batch: Batch) -> None:
    run = await begin(batch, max_runs=2)
    await batch.configure(max_runs=2, **WAITS)
    for _ in range(2):
        batch.clock.move_to(run.state.state_details.scheduled_time)
        run = await batch.wake(run)

    assert run.state.is_completed(), run.state.message
    assert len(batch.closes()) == 1
    assert await is_alive((await batch.grant()).refresh_token)


async def test_configuring_again_while_a_run_waits_heals_a_grant_that_was_lost(
    batch: Batch,
) -> None:
    run = await begin(batch, max_runs=2)
    await grants.revoke(await batch.grant(), await systems.oauth_server())
    await batch.configure(max_runs=2, **WAITS)
    for _ in range(2):
        batch.clock.move_to(run.state.state_details.scheduled_time)
        run = await batch.wake(run)

    assert run.state.is_completed(), run.state.message
    assert len(batch.closes()) == 1
