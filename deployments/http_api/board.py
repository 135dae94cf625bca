"""What is known of the journeys that clients poll: Prefect is asked once for all of them.

A read costs Prefect some 50 ms of processor time, so fifty pollers would drown it. Here a journey
that is polled is read twice a second at most, however many poll it, and all that are due are read
together. An answer is therefore up to `FRESH + the time of one read` seconds old, and up to `STALE`
while Prefect is slow; after that whoever asks waits, and is told so if Prefect is away.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from uuid import UUID

from deployments import journeys
from deployments.http_api.memory import Memory
from deployments.http_api.prefect import prefect_at_hand
from deployments.journeys import Journey

FRESH = 0.5
STALE = 2.0
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
        found = await asyncio.shield(reading)
        if isinstance(found, Exception):
            raise found
        return found

    def _ask_for(self, journey_id: UUID) -> asyncio.Future[Journey | Exception]:
        """Have it read with the next ones, unless that is on its way."""
        if journey_id not in self._wanted:
            self._wanted[journey_id] = asyncio.get_running_loop().create_future()
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read_wanted())
        return self._wanted[journey_id]

    async def _read_wanted(self) -> None:
        while self._wanted:
            ids = list(self._wanted)[: journeys.READ_AT_ONCE]
            found = await self._outcomes(ids)
            for journey_id in ids:
                outcome = found[journey_id]
                if isinstance(outcome, Journey):
                    self._known.put(journey_id, outcome)
                self._wanted.pop(journey_id).set_result(outcome)

    async def _outcomes(self, ids: Collection[UUID]) -> Mapping[UUID, Journey | Exception]:
        """What came of each: an error is an outcome too, for everybody who waits for it."""
        try:
            found = await self._read(ids)
        except Exception as error:  # noqa: BLE001  (raised again where it is awaited)
            return dict.fromkeys(ids, error)
        return {it: found.get(it) or journeys.unknown(it) for it in ids}
