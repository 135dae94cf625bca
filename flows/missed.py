"""The nights of which nothing is recorded, and what Prefect can still tell of them."""

from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from prefect.client.schemas.objects import FlowRun, State, StateType

from blocks import standing
from blocks.history import NIGHTS_KEPT, History
from blocks.outcome import LastBatch, Status, ended_as, says_closed
from blocks.standing import Standing
from flows.night import MAYBE_SENT, Night
from flows.recurrence import Recurrence, schedule_of

EXECUTED_TYPES = {StateType.PENDING, StateType.RUNNING, StateType.CANCELLING}
NO_RUN = "Prefect has no run for this night: its schedule was off, or its run was deleted."


async def missed_nights(night: Night, known: History) -> list[LastBatch]:
    """How the nights before this one ended of which nothing is recorded, as far as can be told.

    Prefect is asked only where one is missing. Nothing is said of a night whose run is executed at
    the moment, nor, where somebody edited the schedule in Prefect, of one that has no run.
    """
    missing = _without_outcome(night, known)
    stands = await standing.read(night.binding) if missing else None
    if stands is None:
        return []
    runs = await stands.runs_at(missing)
    is_as_configured = stands.follows(schedule_of(night.recurrence))
    found = [_inferred(night, moment, runs[moment], is_as_configured) for moment in missing]
    return [outcome for outcome in found if outcome]


def is_changed(stands: Standing, recurrence: Recurrence) -> bool:
    """Whether somebody has edited in Prefect what was configured."""
    return not stands.follows(schedule_of(recurrence))


def _without_outcome(night: Night, known: History) -> Sequence[datetime]:
    last = night.context.last_batch
    recorded = {*known.nights, *([last.occurrence] if last else [])}
    since = _earliest_looked_at(night, known)
    coming = night.recurrence.occurrences(after=since)
    before = takewhile(lambda moment: moment < night.occurrence, coming)
    window = deque(before, maxlen=NIGHTS_KEPT - 1)
    closed = {progress.occurrence for progress in night.context.nights if progress.closed_at}
    return [moment for moment in window if moment not in recorded - closed]


def _earliest_looked_at(night: Night, known: History) -> datetime | None:
    """A moment after which there are no more nights than the history keeps, or not many more."""
    step = night.recurrence.interval
    longest = timedelta(days=31 * step.months + step.days, seconds=step.seconds)
    kept = [*known.nights][:1] if len(known.nights) >= NIGHTS_KEPT else []
    try:
        return max([*kept, night.occurrence - NIGHTS_KEPT * longest])
    except OverflowError:  # before the year 1
        return None


def _inferred(
    night: Night, moment: datetime, runs: Sequence[FlowRun], is_as_configured: bool
) -> LastBatch | None:
    states = [run.state for run in runs if run.state]
    if any(state.type in EXECUTED_TYPES for state in states) or not (states or is_as_configured):
        return None
    progress = night.context.progress_of(moment)
    if progress.closed_at or any(says_closed(state) for state in states):
        at = progress.closed_at
        return night.outcome_of(progress, "CLOSED", reason=None, closed_at=at, inferred=True)
    status: Status
    status, reason = ("SKIPPED", NO_RUN) if not states else _told_by(states)
    if progress.closing_at:
        status, reason = "FAILED", f"{reason.rstrip('.')}. {MAYBE_SENT}"
    return night.outcome_of(progress, status, reason=reason, inferred=True)


def _told_by(states: Sequence[State[Any]]) -> tuple[Status, str]:
    """How a night ended by the states of its runs: one that waits comes too late by now."""
    waiting = [state for state in states if not state.is_final()]
    if waiting:
        return "SKIPPED", f"Its run was still {waiting[0].name} when the next close was due."
    return ended_as(max(states, key=lambda state: state.timestamp))
