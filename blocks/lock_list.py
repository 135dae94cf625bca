"""What each process has locked: one Prefect variable for each process, its list.

A process writes its list first, and reads everybody's after that. So of two that want the same, at
least one sees the other. What several runs of a process lock and release within a moment is written
at once.

A list is numbered. What was written and never answered may be carried out later than what is
written next: so the process begins another list then, and only its latest one counts.
"""

import asyncio
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import count
from typing import Any, NamedTuple
from uuid import UUID
from weakref import WeakKeyDictionary, WeakValueDictionary

import anyio
import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from pydantic import BaseModel, ValidationError

from blocks import clock, ownership
from blocks.lease import Lease
from blocks.liveness import is_not_found, read_variables
from blocks.places import is_beside_others
from blocks.process import Process

PREFIX = "batch_close_locks-"
_NAME = re.compile(rf"{PREFIX}(?P<process>[0-9a-f]{{32}})-(?P<number>\d+)")

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


class Locked(NamedTuple):
    """One entry of a list: which of the process's attempts, what for, since when.

    `is_once_only` says that what is done meanwhile must not be done a second time; `since` is in
    seconds since 1970 (UTC).
    """

    attempt: int
    is_once_only: bool
    since: int


class LockList(BaseModel):
    """What a process has locked, or tries to, by the digests of the locks' names."""

    process: Process
    locked: dict[str, Locked]


@dataclass(frozen=True)
class Stored:
    """A list as it stands in Prefect."""

    variable_id: UUID
    number: int
    listed: LockList
    updated: datetime


class OwnList:
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
    def of(cls, lease: Lease) -> "OwnList":
        """The list of the process that has this lease."""
        if lease not in _lists:
            _lists[lease] = cls(lease)
        return _lists[lease]

    def lock(self, name: str, *, is_once_only: bool) -> Locked:
        """Put a lock onto the list: `publish` has to follow."""
        since = int(clock.now().timestamp())
        self.locked[digest(name)] = locked = Locked(next(self._attempts), is_once_only, since)
        return locked

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
        value = listed.model_dump(mode="json", by_alias=True)
        known, self._id = self._id, None
        if known and await _is_written(client, known, value):
            self._id = known
            return
        self._number += 1
        name = f"{PREFIX}{self.process.id}-{self._number}"
        asked_at = clock.elapsed()
        made = await client.create_variable(VariableCreate(name=name, value=value))
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


_lists: WeakKeyDictionary[Lease, OwnList] = WeakKeyDictionary()


def digest(name: str) -> str:
    """How the lock of this name is listed."""
    return sha256(name.encode()).hexdigest()[:16]


async def read_lists(client: PrefectClient) -> list[Stored]:
    """Each process's latest list; raises httpx.HTTPError where Prefect's API is away."""
    latest: dict[str, Stored] = {}
    for stored in await read_all(client):
        process = stored.listed.process.id
        if process not in latest or stored.number > latest[process].number:
            latest[process] = stored
    return [*latest.values()]


async def read_all(client: PrefectClient) -> list[Stored]:
    """The same, and those that processes have begun others after."""
    found = []
    for variable in await read_variables(client, PREFIX):
        name = _NAME.fullmatch(variable["name"])
        if name is None:  # somebody else's variable
            continue
        with suppress(ValidationError):  # somebody wrote into it: its process will write again
            listed = LockList.model_validate(variable["value"])
            updated = datetime.fromisoformat(variable["updated"])
            found.append(Stored(UUID(variable["id"]), int(name["number"]), listed, updated))
    return found


async def _is_written(client: PrefectClient, variable_id: UUID, value: dict[str, Any]) -> bool:
    """Write the list; returns whether it still exists."""
    try:
        answer = await client.request(
            "PATCH", "/variables/{id}", path_params={"id": variable_id}, json={"value": value}
        )
    except httpx.HTTPStatusError as error:
        if not is_not_found(error):
            raise
        return False
    if answer.status_code != httpx.codes.NO_CONTENT:  # a page of what stands before Prefect
        raise httpx.RemoteProtocolError("Something else than Prefect answered.")
    return True


def _retrieved(task: asyncio.Task[list[LockList]]) -> None:
    """Who waits for it learns of its failure; nobody may."""
    if not task.cancelled():
        task.exception()
