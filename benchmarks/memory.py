"""What memory a stampede takes, and what a wait holds."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from benchmarks.installation import COUNTED
from benchmarks.meter import Sample
from deployments.sandbox.shapes import Event


@dataclass(frozen=True)
class Memory:
    """Proportional set sizes.

    Attributes:
        peak_mb: The most that server, worker and database held together, in MB.
        waiting: How many closes waited when most of them did.
        per_waiting_kb: How much more the worker held then than before, for each of those, in kB.
        left_kb: How much of that it still held when all was over: not the waiting's, then.
        noise_kb: How much the worker's memory varied before it had anything to do, likewise.
    """

    peak_mb: float
    waiting: int
    per_waiting_kb: float
    left_kb: float
    noise_kb: float


def memory(samples: Sequence[Sample], events: Sequence[Event], due: datetime) -> Memory:
    """What the samples say, with the sandbox's events to tell how many waited at a moment."""
    refreshes = _moments(events, "token.refresh")
    snapshots = _moments(events, "orders.prepareSnapshot")

    def waiting_at(moment: float) -> int:
        return bisect_right(refreshes, moment) - bisect_right(snapshots, moment)

    before = [it.pss["worker"] for it in samples if it.at < due.timestamp()]
    fullest = max(samples, key=lambda it: (waiting_at(it.at), it.at))
    waiting = max(waiting_at(fullest.at), 1)
    return Memory(
        peak_mb=max(sum(it.pss.get(part, 0) for part in COUNTED) for it in samples) / 1e6,
        waiting=waiting,
        per_waiting_kb=(fullest.pss["worker"] - before[-1]) / waiting / 1e3,
        left_kb=(samples[-1].pss["worker"] - before[-1]) / waiting / 1e3,
        noise_kb=(max(before) - min(before)) / waiting / 1e3,
    )


def _moments(events: Sequence[Event], kind: str) -> list[float]:
    return sorted(it.at.timestamp() for it in events if it.kind == kind and it.status == 200)  # noqa: PLR2004
