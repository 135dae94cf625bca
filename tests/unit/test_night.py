"""A night: what may be said of how it ended."""

from datetime import UTC, datetime, timedelta

from blocks.binding import Binding
from blocks.context import Context, Progress
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


def night(occurrence: datetime, context: Context) -> Night:
    """A night of this binding."""
    return Night(Binding("acme", "eod"), REQUEST, occurrence, context)


def test_a_night_that_may_have_been_closed_is_never_said_to_be_skipped() -> None:
    begun = Progress(occurrence=FIRST, snapshot_id="s-1", closing_at=FIRST)
    it = night(FIRST, Context(nights=(begun,)))

    outcome = it.doubted(it.ended("SKIPPED", reason="It is too late."))

    assert (outcome.status, outcome.snapshot_id) == ("FAILED", "s-1")
    assert outcome.reason is not None
    assert outcome.reason.startswith("It is too late. The close may have been sent")
