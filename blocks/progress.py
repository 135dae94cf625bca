"""What evolves of a binding: its latest outcome, and how far the nights that are not over are."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel

from blocks.outcome import LastBatch, believed

MOST_NIGHTS = 8
"""Of how many unfinished nights the progress is kept."""

NIGHTS_BYTES = 1_900
"""What that takes at most, as JSON. A Prefect variable holds 5,000 bytes: the last outcome takes up
to 2,950, of which a reason and a batchId of 200 characters of four bytes are 2,300."""


class _Stored(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Progress(_Stored):
    """How far the close of one occurrence has come; what a replay needs and nothing else."""

    occurrence: AwareDatetime
    snapshot_id: str | None = None
    snapshot_at: AwareDatetime | None = None
    closing_at: AwareDatetime | None = None
    """When the close was first about to be sent: from then on it may have happened."""
    closed_at: AwareDatetime | None = None
    """When it was closed; only until the history tells of it."""
    has_failed: bool = False
    """Whether the night is recorded as failed: nobody is at work on it unless somebody asks."""


class Context(_Stored):
    """A binding's non-secret context: the latest outcome, and the nights that are not over."""

    last_batch: LastBatch | None = None
    nights: tuple[Progress, ...] = ()
    ended_at: AwareDatetime | None = None
    """When somebody ended the binding: what was to be configured before that is not any more."""
    journey_over: str | None = None
    """The journey whose last night is over: its grant was forgotten after that."""
    is_new: bool = False
    """Whether nothing is stored of it yet; not stored itself."""

    @model_validator(mode="before")
    @classmethod
    def _of_one_night(cls, stored: Any) -> Any:
        """Read what was stored when the progress of one night only was kept."""
        if isinstance(stored, dict) and stored.get("night"):
            others = {name: value for name, value in stored.items() if name != "night"}
            return others | {"nights": [stored["night"], *stored.get("nights", ())]}
        return stored

    def progress_of(self, occurrence: datetime) -> Progress:
        """The progress made on this occurrence so far."""
        mine = (night for night in self.nights if night.occurrence == occurrence)
        return next(mine, Progress(occurrence=occurrence))

    def outcome_of(self, occurrence: datetime) -> LastBatch | None:
        """How this occurrence ended, if it is the one that ended last."""
        last = self.last_batch
        return last if last and last.occurrence == occurrence else None

    def noted(self, progress: Progress) -> tuple["Context", list[Progress]]:
        """The context with this progress, and the nights that had to be dropped for it.

        Those go first whose close was never about to be sent, and of those alike the oldest.
        """
        nights = sorted([*self._others(progress.occurrence), progress], key=lambda n: n.occurrence)
        dropped: list[Progress] = []
        while not _fit(nights) and len(nights) > 1:
            others = [night for night in nights if night.occurrence != progress.occurrence]
            dropped.append(min(others, key=lambda n: (n.closing_at is not None, n.occurrence)))
            nights.remove(dropped[-1])
        return self.model_copy(update={"nights": tuple(nights)}), dropped

    def ended(self, outcome: LastBatch, *, is_told: bool = True) -> "Context":
        """The context after this outcome: of the latest night that has one, and never a lesser one.

        A failed night keeps its progress for the next attempt, and so does one whose outcome would
        stand nowhere else: neither here nor, as `is_told` says, in the history.
        """
        last, nights = self.last_batch, self._others(outcome.occurrence)
        if last is None or last.occurrence <= outcome.occurrence:
            last = believed(self.outcome_of(outcome.occurrence), outcome)
        mine = last if last.occurrence == outcome.occurrence else outcome
        kept = self.progress_of(outcome.occurrence)
        is_needed = mine.status == "FAILED" or (last is not mine and not is_told)
        if is_needed and (kept.snapshot_id or kept.closing_at):
            done = {"has_failed": mine.status == "FAILED", "closed_at": mine.closed_at}
            nights.append(kept.model_copy(update=done))
        nights = sorted(nights, key=lambda night: night.occurrence)
        return self.model_copy(update={"last_batch": last, "nights": tuple(nights)})

    def as_stored(self) -> dict[str, Any]:
        """The context as JSON."""
        return self.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude_defaults=True, exclude={"is_new"}
        )

    def _others(self, occurrence: datetime) -> list[Progress]:
        return [night for night in self.nights if night.occurrence != occurrence]


def _fit(nights: Sequence[Progress]) -> bool:
    stored = Context(nights=tuple(nights)).as_stored().get("nights", [])
    size = len(json.dumps(stored, ensure_ascii=False).encode())
    return len(nights) <= MOST_NIGHTS and size <= NIGHTS_BYTES
