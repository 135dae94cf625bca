"""A night: which occurrence it is, and whether another run of its binding may be at work."""

from datetime import UTC, datetime, timedelta

import pytest

from blocks import clock
from blocks.binding import Binding
from blocks.context import Context, Progress
from blocks.outcome import LastBatch
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.night import Night

DAY = timedelta(days=1)
FIRST = datetime(2026, 11, 24, 23, tzinfo=UTC)
SECOND = FIRST + DAY
REQUEST = DailyOrdersBatchCloseConfigRequest(
    tenant_id="acme",
    batch_id="eod",
    first_run_at="2026-11-24T23:00:00Z",
    interval="P1D",
    max_runs=3,
)


def night(occurrence: datetime, context: Context, *, by_schedule: bool = True) -> Night:
    """A night of this binding."""
    return Night(Binding("acme", "eod"), REQUEST, occurrence, context, by_schedule)


def ended(occurrence: datetime) -> LastBatch:
    """An outcome of that night."""
    return LastBatch(batch_id="eod", occurrence=occurrence, status="CLOSED")


@pytest.fixture(autouse=True)
def on_the_second_night(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: SECOND + timedelta(minutes=1))


def test_a_scheduled_night_on_time_after_a_recorded_one_is_alone() -> None:
    assert not night(SECOND, Context(last_batch=ended(FIRST))).may_meet_others()


@pytest.mark.parametrize(
    "lonely",
    [
        night(SECOND, Context(last_batch=ended(FIRST)), by_schedule=False),
        night(FIRST, Context()),
        night(SECOND, Context()),
        night(SECOND, Context(last_batch=ended(FIRST), nights=(Progress(occurrence=FIRST),))),
    ],
    ids=["started by hand", "late", "the night before is unrecorded", "it is unfinished"],
)
def test_a_night_that_may_meet_another_run_takes_turns_with_it(lonely: Night) -> None:
    assert lonely.may_meet_others()


def test_a_failed_night_whose_progress_is_kept_keeps_nobody_waiting() -> None:
    failed = Progress(occurrence=FIRST, snapshot_id="s-1", has_failed=True)

    assert not night(SECOND, Context(last_batch=ended(FIRST), nights=(failed,))).may_meet_others()


def test_a_night_that_may_have_been_closed_is_never_said_to_be_skipped() -> None:
    begun = Progress(occurrence=FIRST, snapshot_id="s-1", closing_at=FIRST)

    outcome = night(FIRST, Context(nights=(begun,))).ended("SKIPPED", reason="It is too late.")

    assert outcome.status == "FAILED"
    assert outcome.reason is not None
    assert outcome.reason.startswith("It is too late. The close was sent, but its answer was lost")
