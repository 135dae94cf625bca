"""The few places at which runs are executed at once; one that can only wait lends its own.

A worker executes few runs at once, because Prefect's API bears no more. A run whose tenant's Orders
API hangs asks nothing of Prefect meanwhile: others go on at its place.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass

LENT_AFTER = 2.0
"""Seconds of waiting after which a run lends its place."""

LENT_AT_MOST = 64
"""So many hang at once before the others do have to wait: each holds a connection."""


@dataclass
class _Place:
    places: "Places"
    is_lent: bool = False

    def lend(self) -> None:
        if self.places.lent < LENT_AT_MOST:
            self.is_lent = True
            self.places.lent += 1
            self.places.free.release()

    async def take_back(self) -> None:
        if self.is_lent:
            await self.places.free.acquire()
            self.is_lent = False
            self.places.lent -= 1

    def leave(self) -> None:
        if self.is_lent:
            self.places.lent -= 1
        else:
            self.places.free.release()


_mine: ContextVar[_Place] = ContextVar("place")


class Places:
    """So many places, and who comes first is served first."""

    def __init__(self, number: int) -> None:
        self.free = asyncio.Semaphore(number)
        self.lent = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        await self.free.acquire()
        place = _Place(self)
        token = _mine.set(place)
        try:
            yield
        finally:
            _mine.reset(token)
            place.leave()


def is_beside_others() -> bool:
    """Whether this run has such a place: others are executed in the same event loop."""
    return _mine.get(None) is not None


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
