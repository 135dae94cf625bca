"""What became of a stampede, by what the sandbox received and by nothing else."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from deployments.sandbox.shapes import BindingCloses, Verdict

FAULTS = ("lost", "doubled", "early", "reuse", "rekeyed")


@dataclass(frozen=True)
class Judgement:
    """The sandbox's counts.

    Attributes:
        tenants: How many were due at the same moment.
        closed_once: How many of them were closed exactly once.
        lost: How many were not closed.
        doubled: Closes beyond a tenant's first.
        early: Snapshots and closes before their due moment.
        reuse: Times that a consumed refresh token was presented.
        rekeyed: Requests repeated under another idempotency key.
        lags: Seconds from the moment each first close was due to when it arrived, ascending.
    """

    tenants: int
    closed_once: int
    lost: int
    doubled: int
    early: int
    reuse: int
    rekeyed: int
    lags: list[float]

    @property
    def faults(self) -> dict[str, int]:
        """What went wrong, and how often. While there is any, no figure of the run is shown."""
        counts = {fault: int(getattr(self, fault)) for fault in FAULTS}
        return {fault: count for fault, count in counts.items() if count}


def judge(
    tenants: Sequence[str], verdict: Verdict, bindings: Iterable[BindingCloses], due: datetime
) -> Judgement:
    """Judge a stampede of these tenants, whose closes were due at this moment."""
    due_then = set(tenants)
    closes = {found.tenant_id: found.closes for found in bindings if found.tenant_id in due_then}
    firsts = [min(close.closed_at for close in found) for found in closes.values()]
    beyond = sum(len(found) - 1 for found in closes.values())
    return Judgement(
        tenants=len(tenants),
        closed_once=sum(len(found) == 1 for found in closes.values()),
        lost=len(tenants) - len(closes),
        doubled=max(beyond, verdict.double_close),
        early=verdict.early,
        reuse=verdict.reuse,
        rekeyed=verdict.rekeyed,
        lags=sorted((first - due).total_seconds() for first in firsts),
    )


def percentile(ascending: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent of all do not exceed: always a measured one."""
    return ascending[max(math.ceil(Fraction(percent * len(ascending), 100)), 1) - 1]
