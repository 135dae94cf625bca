"""Which worker process has a run, as the run's state says: so that others know, should it die."""

from dataclasses import dataclass
from typing import Self

from prefect.client.schemas.objects import FlowRun

from flows.waiting import KEPT_BY

TAKEN_BY = "Taken by "


@dataclass(frozen=True)
class Owner:
    """A worker process: a worker's name survives its restart, this does not."""

    worker: str
    instance: str

    def __str__(self) -> str:
        return f"{self.worker} {self.instance}"

    @property
    def mark(self) -> str:
        """What the state of a run says that this process has taken."""
        return f"{TAKEN_BY}{self}"

    @classmethod
    def of(cls, run: FlowRun) -> Self | None:
        """Who took this run; None if it was no worker of this kind."""
        return cls._named_after(TAKEN_BY, run)

    @classmethod
    def keeping(cls, run: FlowRun) -> Self | None:
        """Who keeps this run while it waits; None if nobody does."""
        return cls._named_after(KEPT_BY, run)

    @classmethod
    def _named_after(cls, words: str, run: FlowRun) -> Self | None:
        message = (run.state and run.state.message) or ""
        _, found, name = message.partition(words)
        worker, _, instance = name.rpartition(" ")
        return cls(worker, instance) if found else None
