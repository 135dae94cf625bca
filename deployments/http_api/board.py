"""What is known of the journeys that clients poll: Prefect is asked once for all of them.

A read costs Prefect some 50 ms of processor time, so fifty pollers would drown it. Here all
journeys that are polled are read together, in rounds that are `FRESH` seconds apart, however many
poll them. Whoever asks gets what the last round found: a second old at most, and up to `STALE`
seconds while Prefect is slow. Only for a journey that was not polled lately is a round begun at
once, and waited for. If Prefect is away, who waits is told so.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from uuid import UUID

from deployments import journey as journeys
from deployments.http_api.memory import Memory
from deployments.http_api.prefect import prefect_at_hand
from deployments.journey import Journey

FRESH = 0.5
STALE = 5.0
FOREVER = float("inf")
REMEMBERED = 10_000

Read = Callable[[Collection[UUID]], Awaitable[Mapping[UUID, Journey]]]


async def read_from_prefect(ids: Collection[UUID]) -> Mapping[UUID, Journey]:
    """The journeys as they are now."""
    async with prefect_at_hand():
        return await journeys.read(ids)


class Board:
    """Journeys as they were a moment ago. Whether a caller may see one is not its business."""

    def __init__(self, read: Read = read_from_prefect) -> None:
        self._read = read
        self._known: Memory[UUID, Journey] = Memory(REMEMBERED)
        self._wanted: dict[UUID, asyncio.Future[Journey | Exception]] = {}
        self._urgent = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def journey(self, journey_id: UUID) -> Journey:
        """The journey; raises UnknownJourneyError, and what Prefect's client raises."""
        if known := self._known.get(journey_id, within=FRESH):
            return known
        older = self._known.get(journey_id, within=FOREVER)
        if older and older.status.phase == "Succeeded":  # nothing follows
            return older
        reading = self._ask_for(journey_id)
        if known := self._known.get(journey_id, within=STALE):
            return known
        self._urgent.set()
        found = await asyncio.shield(reading)
        if isinstance(found, Exception):
            raise found
        return found

    def _ask_for(self, journey_id: UUID) -> asyncio.Future[Journey | Exception]:
        """Have it read in the next round."""
        if journey_id not in self._wanted:
            self._wanted[journey_id] = asyncio.get_running_loop().create_future()
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._rounds())
        return self._wanted[journey_id]

    async def _rounds(self) -> None:
        while self._wanted:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), FRESH)
            self._urgent.clear()
            due = list(self._wanted)
            for start in range(0, len(due), journeys.READ_AT_ONCE):
                ids = due[start : start + journeys.READ_AT_ONCE]
                found = await self._outcomes(ids)
                for journey_id in ids:
                    self._wanted.pop(journey_id).set_result(found[journey_id])

    async def _outcomes(self, ids: Collection[UUID]) -> Mapping[UUID, Journey | Exception]:
        """What came of each: an error is an outcome too, for everybody who waits for it."""
        try:
            found = await self._read(ids)
        except Exception as error:  # noqa: BLE001  (raised again where it is awaited)
            return dict.fromkeys(ids, error)
        for journey_id, journey in found.items():
            self._known.put(journey_id, journey)
        return {it: found.get(it) or journeys.unknown(it) for it in ids}
