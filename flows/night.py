"""A night is one occurrence of one binding: which one, how far it has come, when it is due."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import takewhile
from typing import Self

from blocks import clock
from blocks import context as contexts
from blocks import deployment as deployments
from blocks.binding import Binding
from blocks.context import Context, LastBatch, Progress, Status
from blocks.grant import Grant
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.recurrence import Recurrence


class NightError(Exception):
    """There is no night to close."""


class NotConfiguredError(NightError):
    """The binding was never configured."""


class NothingDueError(NightError):
    """No occurrence of the binding has come yet."""


class TooLateError(NightError):
    """The next occurrence has come before this one was closed."""


@dataclass
class Night:
    """One occurrence, with the stored context that its run reads and writes."""

    binding: Binding
    request: DailyOrdersBatchCloseConfigRequest
    occurrence: datetime
    context: Context
    is_refreshed: bool = False
    """Whether this night's refresh is known to be done; the grant itself knows for certain."""

    @classmethod
    async def open(
        cls,
        binding: Binding,
        request: DailyOrdersBatchCloseConfigRequest | None,
        *,
        started_for: datetime,
        by_schedule: bool,
    ) -> Self:
        """Find the night that a run is for, and what earlier runs of it have done.

        A run that somebody started by hand is for the latest occurrence that had come by
        `started_for`, its scheduled start.

        Raises NotConfiguredError and NothingDueError.
        """
        request = request or await _configured(binding)
        # A run that the schedule laid out before the binding was configured anew is no occurrence
        # of the new recurrence, but it is a night that was promised all the same.
        occurrence = started_for if by_schedule else request.recurrence.latest_at(started_for)
        if occurrence is None:
            raise NothingDueError(
                f"Nothing is due for {binding} yet: its first close is due at"
                f" {request.recurrence.first.isoformat()}."
            )
        night = cls(binding, request, occurrence, await contexts.load(binding))
        night.is_refreshed = bool(night.snapshot_id)
        return night

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
        """How this night ended, unless it failed: then it may be tried again."""
        outcome = self.context.outcome_of(self.occurrence)
        return outcome if outcome and outcome.status != "FAILED" else None

    async def is_last(self) -> bool:
        """Whether no further night is scheduled, nor by a configuration that came meanwhile."""
        if self.occurrence < self.recurrence.last:
            return False
        try:
            latest = await _configured(self.binding)
        except NotConfiguredError:
            return True
        return self.occurrence >= latest.recurrence.last

    @property
    def upstream_done_at(self) -> datetime:
        """When upstream systems are done: a duration after the scheduled start."""
        return self.occurrence + self.request.upstream_wait

    @property
    def replicated_at(self) -> datetime:
        """When the snapshot has reached every replica: a duration after it was taken."""
        return (self.progress.snapshot_at or clock.now()) + self.request.replication_delay

    def refuse_late(self) -> None:
        """Raise TooLateError once the next close is due, or would be if there were one more.

        Two closes back to back would close an empty batch.
        """
        if next_due := self._next_is_due():
            raise TooLateError(
                f"Not closed before the next close was due at {next_due:%Y-%m-%d %H:%M:%S} UTC."
            )

    def missed(self) -> Iterator[LastBatch]:
        """The nights since the last recorded one that no run came to, as skipped."""
        last = self.context.last_batch
        since = self.recurrence.occurrences(after=last.occurrence if last else None)
        for occurrence in takewhile(lambda moment: moment < self.occurrence, since):
            yield self._outcome(occurrence, "SKIPPED", "No run of this night ever started.")

    async def note(self, **done: object) -> None:
        """Store progress, before anything is built on it."""
        self.context.night = self.progress.model_copy(update=done)
        await contexts.store(self.binding, self.context)

    async def end(self, outcome: LastBatch) -> None:
        """Store how the night ended. A failed one keeps its progress for the next attempt."""
        if self._next_is_due():  # the later one may have been recorded
            self.context = await contexts.load(self.binding)
        last = self.context.last_batch
        if last and last.occurrence > outcome.occurrence:
            return
        self.context.last_batch = outcome
        if outcome.status != "FAILED":
            self.context.night = None
        await contexts.store(self.binding, self.context)

    def ended(
        self, status: Status, *, reason: str | None = None, closed_at: datetime | None = None
    ) -> LastBatch:
        """This night's outcome, as it will be recorded."""
        outcome = self._outcome(self.occurrence, status, reason)
        done = {"snapshot_id": self.progress.snapshot_id, "closed_at": closed_at}
        return outcome.model_copy(update=done)

    @cached_property
    def _next_due(self) -> datetime | None:
        return self.recurrence.after(self.occurrence, bounded=False)

    def _next_is_due(self) -> datetime | None:
        due = self._next_due
        return due if due and due <= clock.now() else None

    def _outcome(self, occurrence: datetime, status: Status, reason: str | None) -> LastBatch:
        return LastBatch(
            batch_id=self.binding.batch_id,
            occurrence=occurrence,
            status=status,
            ok=status == "CLOSED",
            run=self.recurrence.number_of(occurrence),
            max_runs=self.request.max_runs,
            reason=reason,
        )


async def _configured(binding: Binding) -> DailyOrdersBatchCloseConfigRequest:
    deployment = await deployments.find(binding)
    if deployment is None:
        raise NotConfiguredError(f"{binding} is not configured: run the configure flow first.")
    return DailyOrdersBatchCloseConfigRequest.model_validate(deployment.parameters["configured"])
