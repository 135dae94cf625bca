"""The list of what this process has locked, written for several of its runs at once.

A process writes its list first, and reads everybody's after that. So of two that want the same, at
least one sees the other. What several runs of a process lock and release within a moment is written
at once.
"""

import asyncio
from collections.abc import Iterable
from itertools import count
from uuid import UUID
from weakref import WeakValueDictionary

import anyio
import httpx
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from blocks import clock, ownership
from blocks.lease import Lease
from blocks.lock_list import Locked, LockList, Stored, create, digest, overwrite, read_lists
from blocks.places import is_beside_others

GATHERED_FOR = 0.2
"""Seconds for which what is locked and released side by side is gathered."""

ATTEMPT_SECONDS = 15.0
"""The longest that Prefect may take to write a list and to tell of the others'."""

PAUSES = (0.2, 1.0)
"""Seconds between attempts to write a list: each failed one begins another list."""

AGAIN_AFTER = 5.0
"""Seconds between attempts to tell of a release while Prefect's API is away."""

MOST = 40
"""Locks of one process at a time, and under each another: a Prefect variable holds 5,000 bytes."""


class OwnLockList:
    """This process's list."""

    _attempts = count(1)

    def __init__(self, lease: Lease) -> None:
        self.process = lease.process
        self.locked: dict[str, Locked] = {}
        self.turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.room = asyncio.Semaphore(MOST)
        self.room_once_only = asyncio.Semaphore(MOST // 2)
        """Of that what may be held for long: the others always find some."""
        self._lease = lease
        self._number = 0
        self._id: UUID | None = None
        self._publishing: asyncio.Task[list[LockList]] | None = None
        self._next: asyncio.Task[list[LockList]] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._is_asked = False
        self._told: dict[str, Locked] = {}
        """What others may see of it: what was written, and what was never answered."""

    @classmethod
    def of(cls, lease: Lease) -> "OwnLockList":
        """The list of the process that has this lease."""
        if cls not in lease.belongings:
            lease.belongings[cls] = cls(lease)
        own: OwnLockList = lease.belongings[cls]
        return own

    def lock(self, name: str, *, is_once_only: bool) -> None:
        """Put a lock onto the list: `publish` has to follow."""
        self.locked[digest(name)] = Locked(next(self._attempts), is_once_only, _seconds())

    def held_for(self, name: str) -> float:
        """Seconds since others count how long a lock on the list lasts; one more at most."""
        return clock.now().timestamp() - self.locked[digest(name)].since

    def count_anew(self, name: str) -> None:
        """Have others count from now how long a lock lasts: `publish` has to follow."""
        held = self.locked[digest(name)]
        self.locked[digest(name)] = held._replace(since=_seconds())

    def unlock(self, name: str) -> None:
        """Take a lock from the list, and have the others see so in a moment."""
        self.locked.pop(digest(name), None)
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle())

    async def publish(self) -> list[LockList]:
        """Write the list as it is now; returns the others' as they stood after that.

        Raises httpx.HTTPError where Prefect's API is away.
        """
        self._is_asked = True
        return await asyncio.shield(self._publish_next())

    async def others(self) -> list[LockList]:
        """The others' lists, and nothing is written."""
        async with self._lease.client() as client:
            return self._without_mine(await read_lists(client))

    def _publish_next(self) -> asyncio.Task[list[LockList]]:
        if self._next is None:
            gathered_for = GATHERED_FOR if is_beside_others() else 0
            publishing = self._publish_after(self._publishing, gathered_for)
            self._next = asyncio.create_task(publishing)
            self._next.add_done_callback(_retrieved)
        return self._next

    async def _publish_after(
        self, before: asyncio.Task[list[LockList]] | None, gathered_for: float
    ) -> list[LockList]:
        await asyncio.sleep(gathered_for)
        if before:
            await asyncio.wait([before])
        # What is put onto the list from now on needs the next one.
        self._publishing, self._next = self._next, None
        is_asked, self._is_asked = self._is_asked, False
        # Whoever locks has asked for the lease; and a release is told whatever became of that.
        with ownership.working(None):
            try:
                async with self._lease.client() as client, asyncio.timeout(ATTEMPT_SECONDS):
                    await self._tell(client)
                    return self._without_mine(await read_lists(client)) if is_asked else []
            except TimeoutError:
                raise httpx.ReadTimeout("Prefect does not answer in time.") from None
            except (ObjectAlreadyExists, RuntimeError, anyio.ClosedResourceError) as error:
                # Of a client that was closed with its lease, or of a number that somebody took.
                raise httpx.TransportError(str(error)) from None

    async def _tell(self, client: PrefectClient) -> None:
        told = dict(self.locked)
        self._told |= told
        listed = LockList(process=self.process, locked=told)
        # Each attempt with a number of its own: Prefect's client would send the same again.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            for pause in PAUSES:
                try:
                    await self._write(client, listed)
                    break
                except httpx.HTTPError:
                    await asyncio.sleep(pause)
            else:
                await self._write(client, listed)
        self._told = told

    async def _write(self, client: PrefectClient, listed: LockList) -> None:
        known, self._id = self._id, None
        if known and await overwrite(client, known, listed):
            self._id = known
            return
        self._number += 1
        asked_at = clock.elapsed()
        made = await create(client, self._number, listed)
        if made.created:
            clock.compare(made.created, asked_at=asked_at)
        self._id = made.id
        self._lease.ends_with_it.append(made.id)

    async def _settle(self) -> None:
        """Until it is told, nobody else has what was released: so whatever is in the way."""
        while not self._told.items() <= self.locked.items():
            try:
                await asyncio.shield(self._publish_next())
            except Exception:  # noqa: BLE001
                await asyncio.sleep(AGAIN_AFTER)

    def _without_mine(self, lists: Iterable[Stored]) -> list[LockList]:
        mine = self.process.id
        return [stored.listed for stored in lists if stored.listed.process.id != mine]


def _seconds() -> int:
    return int(clock.now().timestamp())


def _retrieved(task: asyncio.Task[list[LockList]]) -> None:
    """Who waits for it learns of its failure; nobody may."""
    if not task.cancelled():
        task.exception()
