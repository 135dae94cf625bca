"""A night is one occurrence of one binding: which one, how far it has come, when it is due."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import NamedTuple
from uuid import UUID

from blocks import clock, standing
from blocks.binding import Binding
from blocks.context import Context, Progress
from blocks.grant import Grant
from blocks.outcome import LastBatch, Status
from blocks.run_states import was_asked_for_again
from blocks.standing import Standing
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.old_schedule import changed_before, may_be_changed
from flows.recurrence import Recurrence
from flows.requests import NightError

ON_TIME = timedelta(seconds=10)
"""A scheduled run that begins so soon need not ask whether its schedule was switched off: Prefect
deletes runs that are still to come when somebody does that, but not those that are late."""

JUST_LOOKED = 1.0
"""Seconds for which what was just asked about a night's schedule and work pool is believed."""

LOOK_AGAIN = timedelta(seconds=15)
"""How soon a run looks at the earliest whether a schedule that was switched off is on again."""

MAYBE_SENT = "The close may have been sent: look in the Orders API whether it happened."


class Stop(NamedTuple):
    """What holds a night up: the name of the state that it waits in, and why (half a sentence)."""

    state: str
    because: str


DELETED = "The binding's deployment was deleted."
SCHEDULE_OFF = Stop("ScheduleOff", "its schedule is switched off")
POOL_PAUSED = Stop("WorkPoolPaused", "its work pool is paused")


class TooLateError(NightError):
    """The next occurrence has come before this one was closed."""


class OldScheduleError(NightError):
    """The run is of no night: it was laid out for a schedule that had been changed before."""


class DeletedError(NightError):
    """The binding's deployment was deleted while its run was under way."""


@dataclass
class Night:
    """One occurrence, with the stored context that its run reads and writes."""

    binding: Binding
    request: DailyOrdersBatchCloseConfigRequest
    occurrence: datetime
    context: Context
    run_id: UUID | None = None
    """Which of Prefect's flow runs works on it; None where it was called directly from Python."""
    laid_out_at: datetime | None = None
    """When Prefect made its run; None where it was called directly from Python."""
    by_schedule: bool = True
    """Whether the schedule laid out its run; otherwise somebody started it."""
    is_deployed: bool = False
    """Whether its run comes from a work pool; otherwise it was called directly from Python."""
    is_as_configured: bool = True
    """Whether it is one of the occurrences that were configured: people edit schedules."""
    next_laid_out: datetime | None = None
    """When the next run is due that Prefect has laid out; known where it is not as configured."""
    is_again: bool = False
    """Whether its run has been executed before."""
    is_refreshed: bool = False
    """Whether this night's refresh is known to be done; the grant itself knows for certain."""
    recorded: LastBatch | None = None
    """How this night ended, as far as that was recorded before."""
    has_ended: bool = False
    """Whether this very run has recorded it, and nobody has asked for another attempt."""
    grant_lost: str | None = None
    """Why the OAuth server takes the refresh token no more, if this run was told so."""

    _looked_at: float = float("-inf")

    @property
    def recurrence(self) -> Recurrence:
        """All the occurrences that the binding was configured for."""
        return self.request.recurrence

    @property
    def progress(self) -> Progress:
        """How far this night has come."""
        return self.context.progress_of(self.occurrence)

    def is_refreshed_by(self, grant: Grant) -> bool:
        """Whether the stored grant was refreshed for this night, or for a later one."""
        return grant.refreshed_at is not None and grant.refreshed_at >= self.occurrence

    @property
    def snapshot_id(self) -> str:
        """The night's snapshot; empty before there is one."""
        return self.progress.snapshot_id or ""

    @property
    def maybe_closed(self) -> bool:
        """Whether an earlier run of this night may have closed it without learning so."""
        return self.progress.closing_at is not None

    @property
    def settled(self) -> LastBatch | None:
        """How this night ended, if that stays so; one that was not closed may be tried again."""
        is_final = self.recorded and (self.recorded.ok or self.has_ended)
        return self.recorded if is_final else None

    @property
    def may_be_last(self) -> bool:
        """Whether no further night was scheduled with this one, as it was configured."""
        return self.is_as_configured and self.occurrence >= self.recurrence.last

    async def stopped_by(self, *, surely: bool = False) -> Stop | None:
        """What somebody has stopped this night with, for now.

        Raises DeletedError and OldScheduleError if it is for good.

        What somebody asked for runs though the schedule is off: a run started by hand, or again
        after a failure. Nothing runs while its work pool is paused.

        Args:
            surely: Ask also where the run has only just begun, unless it has just been asked.
        """
        if (
            not (surely or self._may_be_stopped())
            or clock.elapsed() - self._looked_at < JUST_LOOKED
        ):
            return None
        looked_at = clock.elapsed()
        stands = await standing.read(self.binding)
        if stands is None:
            raise DeletedError(DELETED)
        await self._refuse_old_schedule(stands)
        if self.by_schedule and not stands.is_on and not await self._was_asked_for_again():
            return SCHEDULE_OFF
        if self.is_deployed and await stands.is_pool_paused():
            return POOL_PAUSED
        self._looked_at = looked_at
        return None

    @property
    def upstream_done_at(self) -> datetime:
        """When upstream systems are done: a duration after the scheduled start."""
        return self.occurrence + self.request.upstream_wait

    @property
    def replicated_at(self) -> datetime:
        """When the snapshot has reached every replica: a duration after it was taken."""
        return (self.progress.snapshot_at or clock.now()) + self.request.replication_delay

    def refuse_late(self, because: str = "") -> None:
        """Raise TooLateError once the next close is due, or would be if there were one more.

        Two closes back to back would close an empty batch. `because` is half a sentence.
        """
        if self.is_late():
            due = f"{self.next_due:%Y-%m-%d %H:%M:%S} UTC"
            why = f": {because}" if because else ""
            raise TooLateError(f"Not closed before the next close was due at {due}{why}.")

    def ended(
        self, status: Status, *, reason: str | None = None, closed_at: datetime | None = None
    ) -> LastBatch:
        """This night's outcome, as far as this run knows."""
        known = {"closed_at": closed_at, "flow_run_id": self.run_id}
        return self.outcome_of(self.progress, status, reason=reason, **known)

    def doubted(self, outcome: LastBatch) -> LastBatch:
        """The outcome with what is stored of the night: FAILED if its close may have been sent."""
        if outcome.ok or outcome is self.recorded or not self.maybe_closed:
            return outcome
        doubt = {"status": "FAILED", "reason": f"{outcome.reason} {MAYBE_SENT}"}
        return outcome.model_copy(update={**doubt, "snapshot_id": self.progress.snapshot_id})

    def outcome_of(
        self, progress: Progress, status: Status, *, reason: str | None, **known: object
    ) -> LastBatch:
        """The outcome of a night of this binding that had come so far."""
        outcome = LastBatch(
            batch_id=self.binding.batch_id,
            occurrence=progress.occurrence,
            status=status,
            snapshot_id=progress.snapshot_id,
            run=self.recurrence.number_of(progress.occurrence),
            max_runs=self.request.max_runs,
            reason=reason,
        )
        return outcome.model_copy(update=known)

    @cached_property
    def next_due(self) -> datetime | None:
        """When the next close is due, or would be; None at the end of the calendar.

        Where somebody edited the schedule in Prefect, by what Prefect has laid out.
        """
        if not self.is_as_configured:
            return self.next_laid_out
        return self.recurrence.after(self.occurrence, bounded=False)

    def is_late(self) -> bool:
        """Whether the next close is due."""
        return self.next_due is not None and self.next_due <= clock.now()

    def look_again_at(self) -> datetime:
        """When to look whether a schedule that somebody switched off is on again.

        The longer it is since the occurrence, the longer that takes: some thirty looks in a day.
        """
        now = clock.now()
        again = now + max(LOOK_AGAIN, (now - self.occurrence) / 4)
        return min(again, self.next_due or again)

    async def _was_asked_for_again(self) -> bool:
        """Whether somebody had this very run begin again after it had ended."""
        return self.run_id is not None and await was_asked_for_again(self.run_id)

    async def _refuse_old_schedule(self, stands: Standing) -> None:
        """Raise OldScheduleError if the run is none of the schedule that stands, and was not then.

        Asked before the night's snapshot: what has one had a look at this before.
        """
        if not self.by_schedule or self.laid_out_at is None or self.snapshot_id:
            return
        changed_at = changed_before(stands, self.request, self.occurrence, self.laid_out_at)
        if changed_at and not await self._was_asked_for_again():
            raise OldScheduleError(
                "The schedule was changed before this night: the one that stands since"
                f" {changed_at:%Y-%m-%d %H:%M:%S} UTC has no close at this time."
            )

    def _may_be_stopped(self) -> bool:
        if self.is_again or not self.by_schedule or self.progress.snapshot_id:
            return True
        due = self.next_due
        if due and self.laid_out_at and may_be_changed(self.laid_out_at, self.occurrence, due):
            return True
        return clock.now() - self.occurrence > ON_TIME
