"""Which process has a run: written into the run's state when it is claimed, and read only here."""

import re
from dataclasses import dataclass
from typing import Self

_CLAIM = re.compile(
    r"Claimed by worker (?P<worker>.*), process (?P<process>[0-9a-f]{32})", re.DOTALL
)


@dataclass(frozen=True)
class Claim:
    """A run is a process's own from the state that says so until the next state.

    Attributes:
        worker: The worker's name, for people. Nothing is decided by it: two may have the same.
        process: The id of the process, as its lease has it.
    """

    worker: str
    process: str

    def __str__(self) -> str:
        return f"Claimed by worker {self.worker}, process {self.process}"

    @classmethod
    def in_message(cls, message: str | None) -> Self | None:
        """The claim that a state's message is; None where it is none."""
        found = _CLAIM.fullmatch(message or "")
        return cls(found["worker"], found["process"]) if found else None
