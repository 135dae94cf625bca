"""What is said of a night is said everywhere alike, and is what happened: whatever people do."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Completed, Running

import flows.daily_close
from blocks import context as contexts
from blocks import deployment, history, standing
from blocks import grant as grants
from blocks.context import Context, Progress
from blocks.orders import OrdersApi
from blocks.outcome import LastBatch
from blocks.progress import MOST_NIGHTS
from deployments import batches
from deployments.engine import end_cancelled, execute
from flows import unopened
from flows.daily_close import daily_close
from flows.keeping import record
from flows.night import Night
from flows.opening import open_night
from flows.unopened import record_ended, record_unstarted
from flows.waiting import go_on_later
from tests.flows.batch import Batch, is_alive

CRASHED: State[None] = State(type=StateType.CRASHED, name="Crashed", message="No such flow.")
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


async def told(batch: Batch, run: FlowRun, number: int = 1) -> tuple[str, str | None]:
    """What is said of the run's night, which is the latest; everywhere the same."""
    last, row = (await batch.context()).last_batch, (await batch.rows())[-1]
    assert last is not None
    assert (last.run, last.status, last.reason) == (row["run"], row["status"], row["reason"])
    assert last.run == number
    if run.state and run.state.is_final() and last.reason:
        assert run.state.message == last.reason
    return last.status, last.reason


async def switch(batch: Batch, *, on: bool) -> None:
    """Switch its one schedule off or on, as somebody does in Prefect's UI."""
    found = await batch.deployment()
    assert found is not None
    async with get_client() as client:
        (schedule,) = await client.read_deployment_schedules(found.id)
        await client.update_deployment_schedule(found.id, schedule.id, active=on)


async def edit_schedule(
    batch: Batch, *, every: timedelta = timedelta(hours=7), first: datetime | None = None
) -> None:
    """Have it run at other hours, as somebody edits it in Prefect's UI."""
    found = await batch.deployment()
    assert found is not None
    async with get_client() as client:
        (schedule,) = await client.read_deployment_schedules(found.id)
        edited = IntervalSchedule(interval=every, anchor_date=first or batch.clock())
        await client.update_deployment_schedule(found.id, schedule.id, schedule=edited)


async def opened_as(run: FlowRun, batch: Batch) -> Night:
    """The night as this run finds it."""
    with FlowRunContext.model_construct(flow_run=run):
        return await open_night(batch.binding, run.parameters["configured"])


async def end_run(run: FlowRun, state: State[Any]) -> None:
    """Set the run's state, as somebody does in Prefect's UI."""
    async with get_client() as client:
        await client.set_flow_run_state(run.id, state, force=True)


def broken(error: Exception) -> Callable[..., Awaitable[Any]]:
    """A function that raises the error."""

    async def fail(*_: object, **__: object) -> None:
        raise error

    return fail


# 1: closed by hand meanwhile


async def test_a_night_closed_by_hand_while_its_run_waits_is_left_alone_by_it(batch: Batch) -> None:
    await batch.configure_past(upstream_wait_duration="PT70S")
    waiting = await batch.run_night()
    assert waiting.state_name == "WaitForUpstream"
    batch.clock.ahead = timedelta(minutes=2)
    assert (await batch.run_by_hand()).is_completed()
    first = (await batch.context()).last_batch
    sent = len(batch.sandbox.events())

    run = await batch.wake(waiting)

    assert run.state.is_completed()
    assert len(batch.sandbox.events()) == sent
    assert (await batch.context()).last_batch == first
    assert await batch.history() == {1: "CLOSED"}


async def test_an_earlier_night_that_is_closed_stays_so_when_its_run_comes_late(
    batch: Batch,
) -> None:
    await batch.configure_past(first_due=DAY + MINUTE)
    first = await batch.night(1)
    batch.clock.move_to(first.expected_start_time + MINUTE)
    assert (await batch.run_night(1)).state.name == "Completed"
    batch.clock.ahead = timedelta(0)
    assert (await batch.run_night(2)).state.name == "Completed"

    again = await batch.wake(first)

    assert again.state.name == "Completed"
    assert await batch.history() == {1: "CLOSED", 2: "CLOSED"}
    assert (await batch.context()).last_batch.run == 2


# 2: overlapping nights


async def test_the_next_nights_note_leaves_the_evidence_of_a_close_that_may_have_been_sent(
    batch: Batch,
) -> None:
    await batch.configure_past(first_due=DAY + MINUTE)
    night = await batch.night(1)
    begun = Progress(
        occurrence=night.expected_start_time,
        snapshot_id="s-1",
        closing_at=night.expected_start_time,
    )
    await contexts.store(batch.binding, Context(nights=(begun,), is_new=True))

    assert (await batch.run_night(2)).state.name == "Completed"
    run = await batch.wake(night)

    assert run.state.is_failed()
    assert "may have been sent" in run.state.message
    assert await batch.history() == {1: "FAILED", 2: "CLOSED"}


async def test_a_context_that_kept_one_night_only_is_read(batch: Batch) -> None:
    await batch.configure_past()
    night = await batch.night(1)
    moment = night.expected_start_time.isoformat()
    old = {"night": {"occurrence": moment, "snapshotId": "s-old", "snapshotAt": moment}}
    async with get_client() as client:
        name = f"batch-close-{batch.binding.slug}"
        await client.request("POST", "/variables/", json={"name": name, "value": old})

    assert (await batch.context()).progress_of(night.expected_start_time).snapshot_id == "s-old"


async def test_a_context_that_somebody_made_unreadable_is_as_one_that_was_deleted(
    batch: Batch,
) -> None:
    await batch.configure_past()
    async with get_client() as client:
        name = f"batch-close-{batch.binding.slug}"
        await client.request("POST", "/variables/", json={"name": name, "value": "?"})

    assert await told(batch, await batch.run_night()) == ("CLOSED", None)


async def test_a_night_whose_progress_is_dropped_is_said_to_be_maybe_closed(batch: Batch) -> None:
    await batch.configure_past(first_due=MOST_NIGHTS * DAY + MINUTE, max_runs=99)
    first = (await batch.night(1)).expected_start_time
    moments = [first + number * DAY for number in range(MOST_NIGHTS)]
    begun = [Progress(occurrence=it, snapshot_id="s-1", closing_at=it) for it in moments]
    await contexts.store(batch.binding, Context(nights=tuple(begun), is_new=True))

    assert (await batch.run_by_hand()).is_completed()

    row = (await batch.rows())[0]
    assert (row["run"], row["status"], row["inferred"]) == (1, "FAILED", True)
    assert "may have been sent" in row["reason"]


# 3: what outranks what


async def test_a_failure_recorded_after_another_run_closed_the_night_does_not_count(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past()
    run = await batch.night(1)
    closed = LastBatch(batch_id="eod", occurrence=run.expected_start_time, status="CLOSED", run=1)

    async def closed_meanwhile(*_: object, **__: object) -> None:
        await contexts.store(batch.binding, Context(last_batch=closed))
        raise RuntimeError("The other run was quicker.")

    monkeypatch.setattr(OrdersApi, "close_daily_batch", closed_meanwhile)

    run = await batch.wake(run)

    assert run.state.is_completed()
    assert (await batch.context()).last_batch.status == "CLOSED"
    assert await batch.history() == {1: "CLOSED"}


async def test_a_failed_night_that_is_run_again_too_late_stays_failed(batch: Batch) -> None:
    await batch.configure_past()
    batch.sandbox.fault(
        "orders.prepareSnapshot", "status", tenant_id=batch.binding.tenant_id, status=403
    )
    run = await batch.run_night()
    _, reason = await told(batch, run)
    batch.clock.move_to(run.expected_start_time + DAY)

    run = await batch.wake(run)

    assert run.state.is_failed()
    assert await told(batch, run) == ("FAILED", reason)


# 4: the history is data


async def test_the_history_is_one_artifact_whose_rows_are_outcomes(batch: Batch) -> None:
    await batch.configure_past(first_due=timedelta(minutes=3), interval="PT1M")
    for number in (1, 2, 3):
        run = await batch.night(number)
        batch.clock.move_to(run.expected_start_time + timedelta(seconds=5))
        assert (await batch.wake(run)).state.is_completed()

    rows = await batch.rows()
    last = (await batch.context()).last_batch
    assert [(row["run"], row["maxRuns"]) for row in rows] == [(1, 3), (2, 3), (3, 3)]
    assert datetime.fromisoformat(rows[-1]["closedAt"]) == last.closed_at
    assert rows[-1]["snapshotId"] == last.snapshot_id
    wanted = {"artifacts": {"key": {"any_": [f"nights-{batch.binding.slug}"]}}}
    async with get_client() as client:
        versions = (await client.request("POST", "/artifacts/filter", json=wanted)).json()
    assert len(versions) == 1


# 5: nights of which nothing is recorded


@pytest.mark.parametrize(
    ("state", "status", "reason"),
    [
        (Cancelled(message="Not tonight."), "SKIPPED", "Its run ended as Cancelled: Not tonight."),
        (Completed(), "SKIPPED", "Its run ended as Completed."),
        (Completed(message="Closed for the holidays."), "SKIPPED", "Closed for the holidays."),
        (CRASHED, "FAILED", "Its run ended as Crashed: No such flow."),
    ],
    ids=["cancelled", "completed by hand", "completed by hand with a word", "crashed"],
)
async def test_a_night_whose_run_ended_without_a_word_is_told_by_its_state(
    batch: Batch, state: State[Any], status: str, reason: str
) -> None:
    await batch.configure_past(first_due=DAY + MINUTE)
    await end_run(await batch.night(1), state)

    assert (await batch.run_night(2)).state.is_completed()

    missed = (await batch.rows())[0]
    assert (missed["run"], missed["status"], missed["inferred"]) == (1, status, True)
    assert reason in missed["reason"]


async def test_a_night_whose_run_is_executed_is_not_said_to_be_skipped(batch: Batch) -> None:
    await batch.configure_past(first_due=DAY + MINUTE)
    await end_run(await batch.night(1), Running())

    assert (await batch.run_night(2)).state.is_completed()

    assert await batch.history() == {2: "CLOSED"}


async def test_a_night_whose_run_never_went_on_is_told_by_what_it_waits_for(batch: Batch) -> None:
    await batch.configure_past(first_due=DAY + MINUTE)
    suspended: State[None] = State(type=StateType.PAUSED, name="Suspended")
    await end_run(await batch.night(1), suspended)

    assert (await batch.run_night(2)).state.is_completed()

    missed = (await batch.rows())[0]
    assert (missed["run"], missed["status"], missed["inferred"]) == (1, "SKIPPED", True)
    assert missed["reason"] == "Its run was still Suspended when the next close was due."


async def test_a_night_that_may_have_been_closed_by_a_run_that_crashed_is_failed(
    batch: Batch,
) -> None:
    await batch.configure_past(first_due=DAY + MINUTE)
    night = await batch.night(1)
    begun = Progress(occurrence=night.expected_start_time, closing_at=night.expected_start_time)
    await contexts.store(batch.binding, Context(nights=(begun,), is_new=True))
    await end_run(night, State(type=StateType.CRASHED, message="Out of memory."))

    assert (await batch.run_night(2)).state.is_completed()

    missed = (await batch.rows())[0]
    assert (missed["run"], missed["status"]) == (1, "FAILED")
    assert "Out of memory. The close may have been sent" in missed["reason"]


async def test_a_night_whose_run_says_that_it_closed_is_not_told_as_skipped(batch: Batch) -> None:
    await batch.configure_past(first_due=DAY + MINUTE)
    await end_run(await batch.night(1), Completed(message="Closed at 2026-01-01 23:20:01 UTC"))

    assert (await batch.run_night(2)).state.is_completed()

    assert await batch.history() == {1: "CLOSED", 2: "CLOSED"}
    assert (await batch.rows())[0]["inferred"]


async def test_a_close_that_only_the_context_tells_of_is_recorded_by_the_next_night(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past(first_due=2 * DAY + MINUTE, max_runs=9)
    assert (await batch.run_night(2)).state.name == "Skipped"
    first = await batch.night(1)
    batch.clock.move_to(first.expected_start_time + MINUTE)
    with monkeypatch.context() as patch:
        patch.setattr(history, "write", broken(RuntimeError("No table today.")))
        assert (await batch.wake(first)).state.name == "Completed"
    async with get_client() as client:
        await client.delete_flow_run(first.id)
    batch.clock.ahead = timedelta(0)

    assert (await batch.run_night(2)).state.is_completed()

    row = (await batch.rows())[0]
    assert (row["run"], row["status"], row["inferred"]) == (1, "CLOSED", True)
    assert row["closedAt"]
    assert not (await batch.context()).nights


async def test_a_close_that_only_the_context_tells_of_is_not_sent_again(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past(first_due=DAY + MINUTE)
    first = await batch.night(1)
    assert (await batch.run_night(2)).state.name == "Completed"
    batch.clock.move_to(first.expected_start_time + MINUTE)
    with monkeypatch.context() as patch:
        patch.setattr(history, "write", broken(httpx.ReadTimeout("Too slow.")))
        first = await batch.wake(first)
    assert first.state_name == "PrefectUnavailable"
    batch.clock.ahead = timedelta(0)
    sent = len(batch.sandbox.events())

    assert (await batch.wake(first)).state.name == "Completed"

    assert len(batch.sandbox.events()) == sent
    assert await batch.history() == {1: "CLOSED", 2: "CLOSED"}


async def test_a_nights_run_is_found_among_hundreds_of_others(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "PAGE", 1)
    await batch.configure_past(first_due=2 * DAY + MINUTE)
    await end_run(await batch.night(1), Cancelled(message="Not tonight."))

    assert (await batch.run_night(3)).state.is_completed()

    assert await batch.history() == {1: "SKIPPED", 2: "SKIPPED", 3: "CLOSED"}
    assert "Not tonight." in (await batch.rows())[0]["reason"]


async def test_a_night_without_a_run_is_told_as_what_prefect_knows_of_it(batch: Batch) -> None:
    await batch.configure_past(first_due=DAY + MINUTE)
    async with get_client() as client:
        await client.delete_flow_run((await batch.night(1)).id)

    assert (await batch.run_night(1)).state.is_completed()

    assert (await batch.rows())[0]["reason"] == (
        "Prefect has no run for this night: its schedule was off, or its run was deleted."
    )


async def test_of_a_schedule_edited_by_hand_no_night_without_a_run_is_made_up(batch: Batch) -> None:
    await batch.configure_past(first_due=2 * DAY + MINUTE, max_runs=9)
    await end_run(await batch.night(2), Cancelled(message="Not tonight."))
    async with get_client() as client:
        await client.delete_flow_run((await batch.night(1)).id)
    third = await batch.night(2)
    await edit_schedule(batch)

    assert (await batch.wake(third)).state.is_completed()

    assert await batch.history() == {2: "SKIPPED", 3: "CLOSED"}


async def test_what_is_inferred_of_a_night_gives_way_to_what_its_run_records(batch: Batch) -> None:
    await batch.configure_past(first_due=DAY + MINUTE)
    first = await batch.night(1)
    await end_run(first, Cancelled(message="Not tonight."))
    assert (await batch.run_night(2)).state.is_completed()

    await batch.wake(first)

    row = (await batch.rows())[0]
    assert (row["status"], row["inferred"]) == ("SKIPPED", False)
    assert "Not closed before the next close was due" in row["reason"]


# 6: stopped is stopped


async def test_a_run_whose_deployment_was_deleted_sends_nothing(batch: Batch) -> None:
    await batch.configure_past(upstream_wait_duration="PT70S")
    run = await batch.run_night()
    found = await batch.deployment()
    async with get_client() as client:
        await client.delete_deployment(found.id)
    sent = len(batch.sandbox.events())
    batch.clock.ahead = timedelta(minutes=2)

    run = await batch.wake(run)

    assert await told(batch, run) == ("SKIPPED", "The binding's deployment was deleted.")
    assert len(batch.sandbox.events()) == sent


@pytest.mark.parametrize("how", ["the deployment is paused", "its schedule is inactive"])
async def test_a_run_whose_schedule_is_switched_off_waits_until_it_is_on_again(
    batch: Batch, how: str
) -> None:
    await batch.configure_past(upstream_wait_duration="PT70S")
    run = await batch.run_night()
    found = await batch.deployment()
    async with get_client() as client:
        if how == "the deployment is paused":
            await client.pause_deployment(found.id)
        else:
            await switch(batch, on=False)
        batch.clock.ahead = timedelta(minutes=2)
        sent = len(batch.sandbox.events())

        run = await batch.wake(run)
        assert (run.state_name, len(batch.sandbox.events())) == ("ScheduleOff", sent)

        if how == "the deployment is paused":
            await client.resume_deployment(found.id)
        else:
            await switch(batch, on=True)
    run = await batch.wake(run)
    assert await told(batch, run) == ("CLOSED", None)
    assert len(batch.closes()) == 1


async def test_a_run_whose_schedule_stays_off_until_the_next_night_is_skipped(batch: Batch) -> None:
    await batch.configure_past(upstream_wait_duration="PT70S")
    run = await batch.run_night()
    await switch(batch, on=False)
    batch.clock.move_to(run.expected_start_time + DAY)
    sent = len(batch.sandbox.events())

    run = await batch.wake(run)

    status, reason = await told(batch, run)
    assert status == "SKIPPED"
    assert reason is not None
    assert reason.startswith("Not closed before the next close was due at ")
    assert reason.endswith(": its schedule is switched off.")
    assert len(batch.sandbox.events()) == sent


async def test_a_late_run_that_begins_after_its_schedule_was_switched_off_waits(
    batch: Batch,
) -> None:
    await batch.configure_past()
    await switch(batch, on=False)

    assert (await batch.run_night()).state_name == "ScheduleOff"
    assert not batch.requests("token.refresh")


async def test_the_longer_a_schedule_is_off_the_less_often_it_is_looked_at(batch: Batch) -> None:
    await batch.configure_past()
    run = await batch.night(1)
    await switch(batch, on=False)
    looks = {}
    for hours in (0.01, 8, 23):
        now = run.expected_start_time + timedelta(hours=hours)
        batch.clock.move_to(now)
        woken = await batch.wake(run)
        assert woken.state_name == "ScheduleOff"
        looks[hours] = woken.next_scheduled_start_time - now

    assert looks[0.01] == pytest.approx(timedelta(seconds=15), abs=timedelta(seconds=10))
    assert looks[8] == pytest.approx(timedelta(hours=2), abs=MINUTE)
    assert looks[23] == pytest.approx(timedelta(hours=1), abs=MINUTE)  # the next night is due


async def test_what_somebody_asks_for_runs_although_the_schedule_is_off(batch: Batch) -> None:
    await batch.configure_past()
    batch.sandbox.fault("orders.close", "status", tenant_id=batch.binding.tenant_id, status=403)
    run = await batch.run_night()
    assert run.state.is_failed()
    await switch(batch, on=False)

    assert (await batch.wake(run)).state.name == "Completed"


# 7: every exit is recorded


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (RuntimeError("token abc"), "RuntimeError"),
        (ValueError("token abc"), "ValueError"),
        (OverflowError("token abc"), "OverflowError"),
    ],
    ids=str,
)
async def test_an_unexpected_error_is_a_failure_that_is_recorded(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, error: Exception, name: str
) -> None:
    await batch.configure_past()
    monkeypatch.setattr(OrdersApi, "prepare_daily_batch_snapshot", broken(error))

    run = await batch.run_night()

    reason = f"An unexpected {name} ended the night: see the run's log."
    assert await told(batch, run) == ("FAILED", reason)
    assert run.state.is_failed()


async def test_a_failure_after_the_close_was_about_to_be_sent_says_so(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past()
    monkeypatch.setattr(OrdersApi, "close_daily_batch", broken(RuntimeError("!")))

    run = await batch.run_night()

    status, reason = await told(batch, run)
    assert status == "FAILED"
    assert reason.endswith(
        "The close may have been sent: look in the Orders API whether it happened."
    )


async def test_a_close_that_was_answered_stays_closed_when_it_cannot_be_recorded(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past()
    monkeypatch.setattr(history, "write", broken(RuntimeError("No table today.")))
    run = await batch.run_night()
    assert run.state.is_completed()
    sent = len(batch.sandbox.events())
    monkeypatch.undo()
    batch.clock.ahead = timedelta(0)

    run = await batch.wake(run)

    assert await told(batch, run) == ("CLOSED", None)
    assert len(batch.sandbox.events()) == sent


async def test_a_close_that_prefect_would_not_record_is_recorded_later_without_another(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past()
    with monkeypatch.context() as patch:
        patch.setattr(history, "write", broken(httpx.ReadTimeout("Too slow.")))
        run = await batch.run_night()
    assert run.state_name == "PrefectUnavailable"
    sent = len(batch.sandbox.events())
    batch.clock.move_to(run.expected_start_time + DAY)

    run = await batch.wake(run)

    assert await told(batch, run) == ("CLOSED", None)
    assert len(batch.sandbox.events()) == sent


async def test_a_close_that_was_started_from_python_stays_closed_while_prefect_is_away(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past()
    monkeypatch.setattr(history, "write", broken(httpx.ReadTimeout("Too slow.")))

    assert (await batch.run_by_hand()).is_completed()

    assert (await batch.context()).last_batch.status == "CLOSED"


async def test_a_close_stays_closed_when_what_follows_the_last_night_fails(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past(max_runs=1)
    monkeypatch.setattr(deployment, "pause", broken(RuntimeError("No pause today.")))

    run = await batch.run_night()

    assert run.state.is_completed()
    assert await told(batch, run) == ("CLOSED", None)


async def test_a_run_whose_stored_request_was_made_unreadable_is_recorded(batch: Batch) -> None:
    await batch.configure_past()
    run = await batch.night(1)
    changed = run.parameters["configured"] | {"interval": "nightly"}
    run.parameters["configured"] = changed
    async with get_client() as client:
        await client.update_flow_run(run.id, parameters=run.parameters)

    run = await batch.wake(run)

    assert run.state.is_failed()
    assert "(interval): configure it again" in run.state.message
    last, row = (await batch.context()).last_batch, (await batch.rows())[-1]
    assert last.status == row["status"] == "FAILED"
    assert last.reason == row["reason"] == run.state.message


async def test_a_run_that_was_cancelled_while_it_was_executed_is_recorded(batch: Batch) -> None:
    await batch.configure_past()
    run = await batch.night(1)

    async with get_client() as client:
        await end_cancelled(daily_close, run, client)  # as the worker does

    assert await told(batch, run) == ("SKIPPED", "Cancelled while it was executed.")
    assert (await batch.run_by_hand()).is_completed()  # somebody thinks better of it
    assert await told(batch, run) == ("CLOSED", None)


async def test_a_run_that_could_not_be_executed_is_recorded(batch: Batch) -> None:
    await batch.configure_past()
    run = await batch.night(1)

    await record_unstarted(run, "The flow cannot be loaded.")

    assert await told(batch, run) == ("FAILED", "The flow cannot be loaded.")
    assert (await batch.wake(run)).state.name == "Completed"
    await record_unstarted(run, "The flow cannot be loaded.")
    assert await told(batch, run) == ("CLOSED", None)


@pytest.mark.parametrize("engine", ["the worker's", "Prefect's own"])
async def test_a_run_with_a_parameter_that_its_flow_does_not_have_is_recorded(
    batch: Batch, engine: str
) -> None:
    await batch.configure_past()
    run = await batch.night(1)
    async with get_client() as client:
        await client.update_flow_run(run.id, parameters=run.parameters | {"tenantid": "acme"})
        if engine == "Prefect's own":
            run = await batch.wake(run)
        else:
            await client.set_flow_run_state(run.id, Running(), force=True)
            run = await client.read_flow_run(run.id)
            await execute(daily_close, run, client)

    assert run.state.is_failed()
    last, row = (await batch.context()).last_batch, (await batch.rows())[-1]
    assert last.status == row["status"] == "FAILED"
    assert "tenantid" in last.reason


async def test_a_failure_that_its_run_recorded_is_recorded_once(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past()
    batch.sandbox.fault("orders.close", "status", tenant_id=batch.binding.tenant_id, status=403)
    monkeypatch.setattr(unopened, "record_instead", broken(AssertionError("It is recorded.")))

    run = await batch.run_night()

    assert await told(batch, run) == ("FAILED", run.state.message)


async def test_a_run_of_which_nothing_can_be_recorded_is_not_held_up_by_that(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past()
    run = await batch.night(1)
    monkeypatch.setattr(unopened, "keep", broken(RuntimeError("!")))

    await record_unstarted(run, "The flow cannot be loaded.")
    await record_unstarted(run.model_copy(update={"parameters": {}}), "It has no tenant.")


async def test_a_night_that_waits_when_its_binding_is_ended_is_recorded(batch: Batch) -> None:
    await batch.configure_past(upstream_wait_duration="PT2H")
    run = await batch.run_night()

    await batches.end(batch.binding)

    async with get_client() as client:
        run = await client.read_flow_run(run.id)
    assert await told(batch, run) == ("SKIPPED", "The binding was ended.")


# 8: what is told of the binding


async def test_a_binding_that_is_switched_off_has_no_next_night(batch: Batch) -> None:
    await batch.configure()
    assert (await batches.describe(batch.binding)).schedule.active
    await switch(batch, on=False)

    shown = await batches.describe(batch.binding)

    assert not shown.schedule.active
    assert not shown.schedule.changed_in_prefect
    assert shown.next_occurrence is None


async def test_a_schedule_edited_in_prefect_is_told_as_what_it_is_now(batch: Batch) -> None:
    await batch.configure()
    shown = await batches.describe(batch.binding)
    assert not shown.schedule.changed_in_prefect
    await edit_schedule(batch)
    found = await batch.deployment()
    async with get_client() as client:
        await client.request(
            "POST", "/deployments/{id}/schedule", path_params={"id": found.id}, json={}
        )

    shown = await batches.describe(batch.binding)

    assert shown.schedule.changed_in_prefect
    assert shown.schedule.active
    runs = [run for run in await batch.nights() if run.state.is_scheduled()]
    assert shown.next_occurrence == min(run.expected_start_time for run in runs)


# 9: a refresh that this process knows of


async def test_a_run_that_wakes_where_it_refreshed_does_not_look_at_the_grant_again(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past(upstream_wait_duration="PT70S")
    run = await batch.run_night()
    batch.clock.ahead = timedelta(minutes=2)
    monkeypatch.setattr(grants, "refresh", broken(RuntimeError("It is refreshed.")))

    assert (await batch.wake(run)).state.is_completed()

    assert len(batch.requests("token.refresh")) == 1


# 9: what a run believes of its night


async def test_a_run_that_comes_too_late_minds_a_close_that_another_was_about_to_send_meanwhile(
    batch: Batch,
) -> None:
    await batch.configure_past(first_due=DAY + MINUTE)
    night = await batch.night(1)
    opened = await open_night(batch.binding, night.parameters["configured"])
    occurrence = datetime.fromisoformat(night.expected_start_time.isoformat())
    opened = replace(opened, occurrence=occurrence)
    sent = Progress(occurrence=opened.occurrence, snapshot_id="s-1", closing_at=opened.occurrence)
    await contexts.store(batch.binding, Context(nights=(sent,), is_new=True))

    outcome = await record(opened, opened.ended("SKIPPED", reason="Too late."))

    assert outcome.status == "FAILED"
    assert outcome.reason is not None
    assert "may have been sent" in outcome.reason
    assert (await batch.context()).progress_of(opened.occurrence).closing_at


async def test_a_night_that_another_run_failed_still_minds_a_schedule_that_is_off(
    batch: Batch,
) -> None:
    await batch.configure_past(upstream_wait_duration="PT70S")
    waiting = await batch.run_night()
    batch.clock.ahead = timedelta(minutes=2)
    batch.sandbox.fault("orders.close", "status", tenant_id=batch.binding.tenant_id, status=403)
    assert (await batch.run_by_hand()).is_failed()
    await switch(batch, on=False)
    sent = len(batch.sandbox.events())

    run = await batch.wake(waiting)

    assert run.state_name == "ScheduleOff"
    assert len(batch.sandbox.events()) == sent


async def test_a_failed_last_night_whose_worker_was_stopped_right_after_it_was_recorded_is_over(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past(max_runs=1)
    batch.sandbox.fault("orders.close", "status", tenant_id=batch.binding.tenant_id, status=403)
    with monkeypatch.context() as stopped:
        done = flows.daily_close.scheduled_done

        async def done_and_stopped(night: Night, outcome: LastBatch) -> None:
            await done(night, outcome)
            await go_on_later(httpx.ConnectError("stopped"))

        stopped.setattr(flows.daily_close, "scheduled_done", done_and_stopped)
        run = await batch.run_night()
    assert run.state.is_scheduled()
    recorded, sent = (await batch.context()).last_batch, len(batch.sandbox.events())

    run = await batch.wake(run)

    assert run.state.is_failed()
    assert run.state.message == recorded.reason
    assert (await batch.context()).last_batch == recorded
    assert len(batch.sandbox.events()) == sent


async def test_a_lost_grant_stops_the_schedule_also_if_the_worker_was_stopped_before_that(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past()
    invalid = {"status": 400, "body": {"error": "invalid_grant"}}
    batch.sandbox.fault("token.refresh", "status", tenant_id=batch.binding.tenant_id, **invalid)
    with monkeypatch.context() as stopped:
        away = broken(httpx.ConnectError("stopped"))
        stopped.setattr(flows.daily_close, "stop_schedule", away)
        run = await batch.run_night()
    assert run.state.is_scheduled()
    assert not await batch.is_paused()

    run = await batch.wake(run)

    assert run.state.is_failed()
    assert await batch.is_paused()


async def test_a_failed_run_that_somebody_retries_runs_though_the_schedule_is_off(
    batch: Batch,
) -> None:
    await batch.configure_past()
    batch.sandbox.fault("orders.close", "status", tenant_id=batch.binding.tenant_id, status=403)
    failed = await batch.run_night()
    assert failed.state.is_failed()
    batch.sandbox.clear_faults()
    await switch(batch, on=False)

    assert (await batch.wake(failed)).state.is_completed()
    assert await batch.history() == {1: "CLOSED"}


# 10: the schedule that stands, and the last night


async def test_a_schedule_that_somebody_moved_earlier_closes_at_its_new_hour(batch: Batch) -> None:
    await batch.configure_past(first_due=timedelta(hours=-1), upstream_wait_duration="PT15M")
    await edit_schedule(batch, every=DAY, first=batch.clock() - 10 * MINUTE)
    found = await batch.deployment()
    async with get_client() as client:
        run = await client.create_flow_run_from_deployment(found.id)
        moved = (await client.read_flow_run(run.id)).model_copy(
            update={"auto_scheduled": True, "expected_start_time": batch.clock() - 10 * MINUTE}
        )

    # Its first night was configured for 50 minutes later; nothing is due then any more.
    night = await opened_as(moved, batch)

    assert not night.is_late()
    assert not night.may_be_last


async def test_a_last_night_whose_run_is_cancelled_ends_the_binding(batch: Batch) -> None:
    await batch.configure_past(max_runs=1, upstream_wait_duration="PT2M")
    run = await batch.run_night()
    refresh_token = (await batch.grant()).refresh_token
    await end_run(run, Cancelled(message="Not tonight."))
    async with get_client() as client:
        await record_ended(await client.read_flow_run(run.id))

    assert await batch.history() == {1: "SKIPPED"}
    assert await batch.is_paused()
    assert await batch.grant() is None
    assert not await is_alive(refresh_token)
