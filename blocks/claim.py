"""Which process has a run: written into the run's state when it is claimed, and read only here."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

_CLAIM = re.compile(
    r"Claimed by worker (?P<worker>.*), process (?P<process>[0-9a-f]{32})"
    r"(, waits until (?P<until>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Claim:
    """A run is a process's own from the state that says so until the next state.

    Attributes:
        worker: The worker's name, for people. Nothing is decided by it: two may have the same.
        process: The id of the process, as its lease has it.
        until: Until when the process waits with the run, in UTC, for people; None if it works.
    """

    worker: str
    process: str
    until: datetime | None = None

    def __str__(self) -> str:
        claim = f"Claimed by worker {self.worker}, process {self.process}"
        return f"{claim}, waits until {self.until:%Y-%m-%d %H:%M:%S} UTC" if self.until else claim

    def waiting(self, until: datetime) -> Self:
        """The same, of a process that waits with the run until this moment."""
        return type(self)(self.worker, self.process, until.astimezone(UTC))

    @classmethod
    def in_message(cls, message: str | None) -> Self | None:
        """The claim that a state's message is; None where it is none."""
        found = _CLAIM.fullmatch(message or "")
        if found is None:
            return None
        until = f"{found['until']}+00:00" if found["until"] else None
        try:
            moment = datetime.fromisoformat(until) if until else None
        except ValueError:  # people write messages, too
            return None
        return cls(found["worker"], found["process"], moment)
