"""Every tenant's nights set up beforehand, all from the same moment on."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from benchmarks.ways import BATCH, REPLICATION_DELAY, UPSTREAM_WAIT, Way
from blocks import clock
from deployments.sandbox.client import SandboxClient

AT_ONCE = 8
PILOTS = 8
CALM = timedelta(seconds=25)
"""Between the end of the set-up and the stampede, so that the one does not count for the other."""

MARGIN, SLACK = 1.35, timedelta(seconds=30)
"""The set-up may take so much longer than its pilots foretell: a server that finds its SQLite
database locked, as Prefect's own does, answers some of it many seconds later."""

NEVER = timedelta(days=200)

REHEARSAL_SECONDS = 300


class SetUpTooSlowError(Exception):
    """The moment came before all were ready for it."""


@dataclass(frozen=True)
class SetUp:
    """Everybody is ready for the moment `due`; `seconds` took each binding, in their order."""

    due: datetime
    seconds: list[float]

    @property
    def first_tenth(self) -> float:
        """Seconds that a binding took among the first: the median."""
        return median(self.seconds[: self._tenth])

    @property
    def last_tenth(self) -> float:
        """Seconds that a binding took among the last: the median."""
        return median(self.seconds[-self._tenth :])

    @property
    def _tenth(self) -> int:
        return max(len(self.seconds) // 10, min(len(self.seconds), AT_ONCE))


async def set_up(way: Way, sandbox: SandboxClient, tenants: Sequence[str]) -> SetUp:
    """Set up these tenants for a moment soon after; raises SetUpTooSlowError."""
    pilots = [f"pilot-{number}" for number in range(PILOTS)]
    began = time.monotonic()
    await _configure(way, sandbox, pilots, _in(NEVER))
    each = (time.monotonic() - began) / PILOTS
    await _rehearse(way, sandbox, each)
    return await _ready(way, sandbox, tenants, each)


async def _rehearse(way: Way, sandbox: SandboxClient, each: float) -> None:
    """Have some tenants closed: what processes load and set aside for it is no part of a wait."""
    tenants = [f"rehearsal-{number}" for number in range(way.rehearsed)]
    await _ready(way, sandbox, tenants, each)
    async with asyncio.timeout(REHEARSAL_SECONDS):
        while not all(sandbox.closes(tenant, BATCH) for tenant in tenants):  # noqa: ASYNC110
            await asyncio.sleep(1)


async def _ready(way: Way, sandbox: SandboxClient, tenants: Sequence[str], each: float) -> SetUp:
    """Set them up for the moment by when that is done, if each takes so many seconds."""
    due = _in(timedelta(seconds=each * len(tenants) * MARGIN) + SLACK + CALM)
    for tenant in tenants:
        _plan(sandbox, tenant, due)
    seconds = await _configure(way, sandbox, tenants, due)
    if clock.now() > due - CALM / 2:
        raise SetUpTooSlowError(
            f"Setting up {len(tenants)} tenants took longer than the first {PILOTS} foretold:"
            " try again while the machine has nothing else to do."
        )
    return SetUp(due, seconds)


def _plan(sandbox: SandboxClient, tenant: str, due: datetime) -> None:
    sandbox.plan(
        tenant, BATCH, [due], upstream_wait=UPSTREAM_WAIT, replication_delay=REPLICATION_DELAY
    )


async def _configure(
    way: Way, sandbox: SandboxClient, tenants: Sequence[str], due: datetime
) -> list[float]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(tenant: str) -> float:
        async with places:
            began = time.monotonic()
            await way.configure(sandbox, tenant, due)
            return time.monotonic() - began

    return await asyncio.gather(*(one(tenant) for tenant in tenants))


def _in(lead: timedelta) -> datetime:
    return (clock.now() + lead).replace(microsecond=0) + timedelta(seconds=1)
