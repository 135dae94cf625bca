"""The few places at which runs are executed at once; one that can only wait lends its own.

A worker executes few runs at once, because Prefect's API bears no more. A run whose tenant's Orders
API hangs asks nothing of Prefect meanwhile: others go on at its place.

No tenant takes more than three quarters of them, however many of its nights fall due at once and
hang: the others always find some.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

LENT_AFTER = 2.0
"""Seconds of waiting after which a run lends its place."""

LENT_AT_MOST = 64
"""So many hang at once before the others do have to wait: each holds a connection."""


def _share(number: int) -> int:
    return number - number // 4


class _Tenant:
    """What one tenant has of the places."""

    def __init__(self, share: int) -> None:
        self.free = asyncio.Semaphore(share)
        self.lent = 0
        self.runs = 0


@dataclass
class _Place:
    places: "Places"
    tenant: _Tenant
    is_lent: bool = False
    is_left: bool = False

    async def take(self) -> None:
        await self.tenant.free.acquire()
        try:
            await self.places.free.acquire()
        except BaseException:
            self.tenant.free.release()
            raise

    def lend(self) -> None:
        if self.places.lent < LENT_AT_MOST and self.tenant.lent < _share(LENT_AT_MOST):
            self._count(lent=1)
            self._release()

    async def take_back(self) -> None:
        if self.is_lent:
            await self.take()
            self._count(lent=-1)

    def leave(self) -> None:
        if self.is_lent:
            self._count(lent=-1)
        elif not self.is_left:
            self._release()

    @asynccontextmanager
    async def left(self) -> AsyncIterator[None]:
        if self.is_left or self.is_lent:
            yield
            return
        self._release()
        self.is_left = True
        self.places.left += 1
        try:
            yield
        finally:
            self.places.left -= 1
        await self.take()
        self.is_left = False

    def _release(self) -> None:
        self.places.free.release()
        self.tenant.free.release()

    def _count(self, *, lent: int) -> None:
        self.is_lent = lent > 0
        self.places.lent += lent
        self.tenant.lent += lent


_mine: ContextVar[_Place] = ContextVar("place")


class Places:
    """So many places, and who comes first is served first."""

    def __init__(self, number: int) -> None:
        self.free = asyncio.Semaphore(number)
        self.lent = 0
        self.left = 0
        """How many runs have left theirs for a while: they wait for a moment."""
        self._number = number
        self._tenants: dict[str, _Tenant] = {}

    @asynccontextmanager
    async def one(self, tenant: str = "") -> AsyncIterator[None]:
        """Wait for a place and hold it; who is of no tenant may have them all."""
        with self._of(tenant) as mine:
            place = _Place(self, mine)
            await place.take()
            token = _mine.set(place)
            try:
                yield
            finally:
                _mine.reset(token)
                place.leave()

    @contextmanager
    def _of(self, tenant: str) -> Iterator[_Tenant]:
        share = _share(self._number) if tenant else self._number
        mine = self._tenants.setdefault(tenant, _Tenant(share))
        mine.runs += 1
        try:
            yield mine
        finally:
            mine.runs -= 1
            if not mine.runs:
                del self._tenants[tenant]


def is_beside_others() -> bool:
    """Whether this run has such a place: others are executed in the same event loop."""
    return _mine.get(None) is not None


def leave_for_good() -> None:
    """Leave this run's place to others: the run asks nothing more. Without one, do nothing."""
    if (place := _mine.get(None)) and not place.is_left:
        place.leave()
        place.is_left, place.is_lent = True, False


@asynccontextmanager
async def left_while_waiting() -> AsyncIterator[None]:
    """Leave this run's place to others; it gets another one afterwards. Without one, do nothing."""
    place = _mine.get(None)
    if place is None:
        yield
        return
    async with place.left():
        yield


@asynccontextmanager
async def lent_while_waiting() -> AsyncIterator[None]:
    """Lend this run's place while what is in here lasts long; without a place, do nothing."""
    place = _mine.get(None)
    if place is None:
        yield
        return
    lending = asyncio.get_running_loop().call_later(LENT_AFTER, place.lend)
    try:
        yield
    finally:
        lending.cancel()
        await place.take_back()
