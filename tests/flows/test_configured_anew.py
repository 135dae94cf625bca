"""A binding is configured anew: which nights of the schedule before are closed, and which are not.

Prefect deletes the runs of the schedule before. But its scheduler may have read that one just
before it was changed, and lays out runs of it just after.
"""

from datetime import datetime, timedelta
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.states import Cancelled, Pending, Running, Scheduled

from deployments.engine import execute
from deployments.sandbox.shapes import Event
from flows import old_schedule
from flows.daily_close import daily_close
from flows.unopened import record_ended
from tests.flows.batch import Batch

HOUR = timedelta(hours=1)
DAY = 24 * HOUR
QUICK = {"upstream_wait_duration": "PT1S", "replication_delay_duration": "PT0.01S"}
CHANGED = "The schedule was changed before this night"


async def configured(batch: Batch, first: datetime, **changed: Any) -> DeploymentResponse:
    """The batch's deployment, once it is configured for a first night then."""
    state = await batch.configure(first_run_at=first.isoformat(), **QUICK | changed)
    assert state.is_completed(), state.message
    found = await batch.deployment()
    assert found is not None
    return found


async def left_behind(before: DeploymentResponse, *, number: int = 1) -> FlowRun:
    """A run of the schedule before, as a scheduler lays it out that has not seen the change."""
    schedule = {
        "schedule": before.schedules[0].schedule.model_dump(mode="json"),
        "parameters": before.parameters,
        "slug": "before",
    }
    path = f"/deployments/{before.id}/schedules"
    async with get_client() as client:
        (it,) = (await client.request("POST", path, json=[schedule])).json()
        await client.request("POST", f"/deployments/{before.id}/schedule", json={})
        wanted = {
            "deployments": {"id": {"any_": [str(before.id)]}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        found = (await client.request("POST", "/flow_runs/filter", json=wanted)).json()
        ids = [run["id"] for run in found if run["created_by"]["id"] == it["id"]]
        # Prefect deletes with a schedule what has not begun.
        await client.set_flow_run_state(ids[number - 1], Pending(), force=True)
        await client.request("DELETE", f"{path}/{it['id']}")
        await client.request("POST", f"/deployments/{before.id}/schedule", json={})
        await client.set_flow_run_state(ids[number - 1], Scheduled(), force=True)
        return await client.read_flow_run(ids[number - 1])


async def begun_by_a_worker(run: FlowRun) -> FlowRun:
    """The run, once it was begun for the first time and has come to its end."""
    assert run.start_time is None
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Running(), force=True)
        run.state = (await client.read_flow_run(run.id)).state
        await execute(daily_close, run, client)
        return await client.read_flow_run(run.id)


def tomorrow(batch: Batch) -> datetime:
    """This hour."""
    return (batch.clock() + DAY).replace(microsecond=0)


def sent_since(batch: Batch, before: list[Event]) -> list[str]:
    """What the outside systems were asked since then."""
    return [event.kind for event in batch.sandbox.events()[len(before) :]]


@pytest.mark.parametrize("late", [timedelta(seconds=1), timedelta(minutes=5), 2 * DAY])
async def test_a_run_of_the_schedule_before_that_prefect_laid_out_late_sends_nothing(
    batch: Batch, late: timedelta
) -> None:
    first = tomorrow(batch)
    before = await configured(batch, first)
    await configured(batch, first + HOUR)
    run = await left_behind(before)
    asked = batch.sandbox.events()
    batch.clock.move_to(first + late)

    run = await begun_by_a_worker(run)

    assert (run.state.type.value, run.state.name) == ("COMPLETED", "Skipped")
    assert run.state.message.startswith(CHANGED)
    assert not sent_since(batch, asked)
    assert (await batch.context()).is_new  # nothing is said of it: it is no night


async def skipped(batch: Batch, first: datetime) -> FlowRun:
    """Such a run, which has come to its end; the new schedule's first night is an hour later."""
    before = await configured(batch, first)
    await configured(batch, first + HOUR)
    run = await left_behind(before)
    batch.clock.move_to(first + timedelta(seconds=1))
    return await batch.wake(run)


async def test_the_nights_of_the_new_schedule_are_closed_beside_such_a_run(batch: Batch) -> None:
    first = tomorrow(batch)
    await skipped(batch, first)
    new = await batch.night(2)
    assert new.expected_start_time == first + HOUR
    batch.clock.move_to(first + HOUR + timedelta(seconds=1))

    assert (await batch.wake(new)).state.name == "Completed"

    assert await batch.history() == {1: "CLOSED"}
    assert len(batch.closes()) == 1


async def test_such_a_run_is_closed_all_the_same_if_somebody_asks_for_it_again(
    batch: Batch,
) -> None:
    run = await skipped(batch, tomorrow(batch))

    assert (await batch.wake(run)).state.name == "Completed"
    assert len(batch.closes()) == 1


async def test_a_run_that_the_new_schedule_has_too_is_its_night_whoever_laid_it_out(
    batch: Batch,
) -> None:
    first = tomorrow(batch)
    before = await configured(batch, first)
    found = await configured(batch, first, max_runs=9)
    assert found.parameters != before.parameters
    run = await batch.night(1)
    async with get_client() as client:
        await client.update_flow_run(run.id, parameters=before.parameters)
    batch.clock.move_to(first + timedelta(seconds=1))

    assert (await batch.wake(run)).state.name == "Completed"


async def test_a_run_that_had_begun_when_the_schedule_was_changed_is_closed(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_schedule, "LAID_OUT_WITHIN", timedelta(0))
    first = tomorrow(batch)
    await configured(batch, first)
    run = await batch.night(1)
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Pending(), force=True)  # a worker has claimed it
    await configured(batch, first + HOUR)
    batch.clock.move_to(first + timedelta(seconds=1))

    assert (await batch.wake(run)).state.name == "Completed"


async def test_a_run_that_waits_while_its_batch_is_configured_anew_is_closed(batch: Batch) -> None:
    await batch.configure_past(upstream_wait_duration="PT70S")
    waiting = await batch.run_night()
    assert waiting.state_name == "WaitForUpstream"
    await configured(batch, tomorrow(batch) + HOUR)
    batch.clock.ahead = timedelta(minutes=2)

    assert (await batch.wake(waiting)).state.name == "Completed"


async def test_where_somebody_edited_what_is_configured_no_run_is_taken_for_one_of_before(
    batch: Batch,
) -> None:
    first = tomorrow(batch)
    before = await configured(batch, first)
    run = await batch.night(1)
    other = before.parameters["configured"] | {"firstRunAt": (first + HOUR).isoformat()}
    path = f"/deployments/{before.id}"
    async with get_client() as client:
        changed = {"parameters": before.parameters | {"configured": other}}
        await client.request("PATCH", path, json=changed)
        await client.request("POST", f"{path}/schedule", json={})
        (run, *_) = await batch.nights()
        await client.update_flow_run(run.id, parameters=before.parameters)
    assert run.expected_start_time == first
    batch.clock.move_to(first + timedelta(seconds=1))

    assert (await batch.wake(run)).state.name == "Completed"


async def test_no_such_run_comes_as_far_as_a_refresh_however_many_were_laid_out(
    batch: Batch,
) -> None:
    first = tomorrow(batch) - HOUR
    before = await configured(batch, first, max_runs=9)
    await configured(batch, first + HOUR, max_runs=9)
    run = await left_behind(before, number=3)
    asked = batch.sandbox.events()
    batch.clock.move_to(first + 2 * DAY + timedelta(seconds=1))

    assert (await begun_by_a_worker(run)).state.name == "Skipped"
    assert not sent_since(batch, asked)


async def test_one_that_gives_no_reason_to_look_is_found_before_the_snapshot_at_the_latest(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_schedule, "NIGHTS_AHEAD", 0)
    first = tomorrow(batch)
    before = await configured(batch, first)
    await configured(batch, first + HOUR)
    run = await left_behind(before)
    asked = batch.sandbox.events()
    batch.clock.move_to(first + timedelta(seconds=1))

    assert (await begun_by_a_worker(run)).state.name == "Skipped"
    assert {*sent_since(batch, asked)} == {"token.refresh"}
    assert (await batch.context()).is_new


async def test_a_night_that_is_cancelled_after_another_was_configured_is_recorded_all_the_same(
    batch: Batch,
) -> None:
    first = tomorrow(batch)
    await configured(batch, first)
    run = await batch.night(1)
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Running(name="ReplicationDelay"), force=True)
        batch.clock.move_to(first + timedelta(seconds=10))
        await configured(batch, first + HOUR)
        await client.set_flow_run_state(run.id, Cancelled(), force=True)

        await record_ended(await client.read_flow_run(run.id))

    last = (await batch.context()).last_batch
    assert (last.occurrence, last.status) == (first, "SKIPPED")
