"""A process's lease: the only evidence on which another process is given up.

Each process that holds something, a run or a lock, keeps a Prefect variable, its lease, and renews
it. The lease ends twice, so that neither an outage nor a frozen machine costs the living anything:

- Its holder stops by itself when half of the lease has passed without a successful renewal, on its
  own clock, and asks before each effect.
- Another process ends it when it has seen the lease unchanged for the whole of its length, in looks
  with no gap between them; a look that fails, or comes late, begins anew. Or at once, where it runs
  on the same machine and sees that this process does not exist any more.

Ended means deleted: by one only, and for good. The holder's next renewal is answered with 404, and
it learns that whatever it held is somebody else's.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self
from uuid import UUID
from weakref import WeakKeyDictionary

import httpx
from anyio import move_on_after
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate
from prefect.client.schemas.objects import Variable
from prefect.exceptions import Abort, ObjectAlreadyExists
from prefect.logging import get_logger
from prefect.settings import PREFECT_API_URL

from blocks import clock
from blocks.liveness import PREFIX, Watch, delete_variable, has_lease, is_not_found, read_leases
from blocks.process import Process

RENEWALS = 6
"""So many times in a lease it is renewed, and the others' are looked at."""

ENDED_WITHIN = 3.0
"""Seconds that a process that ends takes for it at most; others find out without it."""

# No most of connections: httpcore loses one for good each time that a request is cancelled which
# waits for it, and a renewal that comes too late is cancelled.
_ITS_OWN = {"limits": httpx.Limits(max_connections=None, max_keepalive_connections=2)}

_Leases = dict[str | None, asyncio.Future["Lease"]]
_leases: WeakKeyDictionary[asyncio.AbstractEventLoop, _Leases] = WeakKeyDictionary()
"""The leases of this process where no worker has one for it, by the API that keeps them."""

_kept: set[asyncio.Task[None]] = set()

logger = get_logger("lease")


class OwnershipLostError(Abort):
    """What this process, or this run, held is not its own any more: it stops, and says no more.

    An Abort of Prefect's, so that nothing that handles failures takes it for one.
    """


class OwnershipUnknownError(Exception):
    """Prefect cannot be asked at the moment whether this process still holds what it needs."""


class Lease:
    """This process's lease: to be begun, kept, and asked before each effect."""

    def __init__(self, name: str) -> None:
        self.process = Process.this(name)
        self.lost = asyncio.Event()
        self.ends_with_it: list[UUID] = []
        """Variables that are of no use without it."""
        self.belongings: dict[type, Any] = {}
        """What others keep for this process, by its kind: it goes with the lease."""
        self._id = UUID(int=0)
        self._renewed_at = float("-inf")
        self._landed_at = float("-inf")
        self._doubtful_since: float | None = None
        self._renewing = asyncio.Lock()
        self._watch = Watch()
        self._is_kept = False
        self._others: set[str] = set()
        self.departed = 0
        """How many other processes' leases have ended, as far as this process has seen."""

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[Self]:
        """Begin the lease, and keep it until the end of the block.

        Raises httpx.HTTPError where Prefect's API is away.
        """
        # A client of its own: a renewal must not queue behind what the runs ask.
        async with get_client(httpx_settings=_ITS_OWN) as self._client:
            await self._begin()
            self._is_kept = True
            with suppress(httpx.HTTPError, TimeoutError, ValueError):
                await self._look()  # what a process of this machine has left needs no waiting for
            # Each by itself: a slow look must not make the next one come too late to count.
            keeping = [asyncio.create_task(work()) for work in (self._keep, self._keep_looking)]
            try:
                yield self
            finally:
                self._is_kept = False
                for task in keeping:
                    task.cancel()
                # What was done under a lease that was lost may go on.
                with_it = [] if self.is_lost else self.ends_with_it
                with suppress(httpx.HTTPError), move_on_after(ENDED_WITHIN, shield=True):
                    for variable in (self._id, *with_it):
                        await delete_variable(self._client, variable)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[PrefectClient]:
        """A client of Prefect's API for what belongs to the process and outlives its runs."""
        if self._is_kept:
            yield self._client
            return
        async with get_client(httpx_settings=_ITS_OWN) as client:
            yield client

    @property
    def is_lost(self) -> bool:
        """Whether another process has ended it."""
        return self.lost.is_set()

    @property
    def is_sure(self) -> bool:
        """Whether nobody can have ended the lease yet, as far as this process's clock tells."""
        since = clock.elapsed() - self._renewed_at
        return not self.is_lost and since < self.process.seconds / 2

    async def require(self) -> None:
        """Return if the lease is surely this process's at this moment; renew it where need be.

        Raises OwnershipLostError where somebody has ended it, and OwnershipUnknownError where
        Prefect does not answer.
        """
        if self.is_sure:
            return
        async with self._renewing:
            if not self.is_sure:
                await self._renew()
        if not self.is_sure:
            raise OwnershipUnknownError("The renewal of this process's lease took too long.")

    @property
    def _step(self) -> float:
        return self.process.seconds / RENEWALS

    async def _begin(self) -> None:
        asked_at, name = clock.elapsed(), f"{PREFIX}{self.process.id}"
        value = self.process.model_dump(mode="json", by_alias=True)
        made: Variable | None
        try:
            made = await self._client.create_variable(VariableCreate(name=name, value=value))
        except ObjectAlreadyExists:  # nobody else's: the answer to a first attempt was lost
            made = await self._client.read_variable_by_name(name)
        if made is None:
            raise OwnershipLostError(_LOST)
        self._id, self._renewed_at, self._landed_at = made.id, asked_at, asked_at

    async def _keep(self) -> None:
        while not self.is_lost:
            await asyncio.sleep(self._step)
            try:
                async with self._renewing:
                    await self._renew()
            except OwnershipLostError:
                return
            except Exception as error:  # noqa: BLE001  (whatever it is, the next attempt may do)
                logger.warning("The lease is not renewed (%s); trying again.", type(error).__name__)

    async def _keep_looking(self) -> None:
        while not self.is_lost:
            await asyncio.sleep(self._step)
            with suppress(Exception):  # whatever it is: the next look counts from the beginning
                await self._look()

    async def _renew(self) -> None:
        if self.is_lost:
            raise OwnershipLostError(_LOST)
        asked_at = clock.elapsed()
        self.process.renewals += 1
        change = {"value": self.process.model_dump(mode="json", by_alias=True)}
        try:
            async with asyncio.timeout(self._step):
                if not await self._is_written(change) and not await self._is_there():
                    self.lost.set()
                    logger.warning("%s", _LOST)
        except (httpx.HTTPError, TimeoutError) as error:
            raise OwnershipUnknownError(
                f"Prefect does not answer ({type(error).__name__}): nobody can tell whether this"
                " process still holds what it works on."
            ) from None
        if self.is_lost:
            raise OwnershipLostError(_LOST)
        self._believe(asked_at)

    async def _is_written(self, change: dict[str, Any]) -> bool:
        try:
            await self._client.request(
                "PATCH", "/variables/{id}", path_params={"id": self._id}, json=change
            )
        except httpx.HTTPStatusError as error:
            if not is_not_found(error):
                raise
            return False
        return True

    async def _is_there(self) -> bool:
        return await has_lease(self._client, self.process.id)

    def _believe(self, asked_at: float) -> None:
        """Take the lease for renewed, unless somebody may be about to end it all the same.

        Who saw it unchanged for its whole length until right before this renewal has one step to
        delete it:

            the renewal before    ... a whole lease ...   this renewal     the next one
            landed (_landed_at)                           asked, answered  a step later
                                  others look, and end it ------------>|

        So after such a silence only a second renewal counts, later than that. Others count from
        when a renewal landed: that is no earlier than it was asked for, and no later than its
        answer came.
        """
        if clock.elapsed() - self._landed_at >= self.process.seconds:
            self._doubtful_since = asked_at
        self._landed_at = asked_at
        if self._doubtful_since is not None and asked_at - self._doubtful_since < self._step:
            raise OwnershipUnknownError(
                "This process stood still or was cut off for longer than its lease: whether"
                " somebody has taken over from it is known in a moment."
            )
        self._doubtful_since, self._renewed_at = None, asked_at

    async def _look(self) -> None:
        """Look at all leases, and end those of processes that are dead."""
        asked_at = clock.elapsed()
        async with asyncio.timeout(self._step):
            found = await read_leases(self._client)
            self._count({process.id for process in found.values()})
            for lease_id in self._watch.look(found, asked_at, clock.elapsed()):
                if lease_id == self._id or clock.elapsed() - asked_at > self._step:
                    continue  # what was seen before this process slept itself is no evidence
                logger.warning("Process %s does not live any more.", found[lease_id].name)
                await delete_variable(self._client, lease_id)
                self._count(self._others - {found[lease_id].id})

    def _count(self, others: set[str]) -> None:
        self.departed += len(self._others - others)
        self._others = others


_LOST = (
    "Others have taken this process for dead, because it stood still or was cut off for longer than"
    " its lease: it stops what it was doing, and somebody else goes on with it."
)


async def lease_of_this_process() -> Lease:
    """Its lease where no worker keeps one: begun when first needed, kept until the loop ends."""
    leases = _leases.setdefault(asyncio.get_running_loop(), {})
    api = PREFECT_API_URL.value()
    known = leases.get(api)
    if known is None or (known.done() and (known.exception() or known.result().is_lost)):
        known = leases[api] = asyncio.get_running_loop().create_future()
        keeping = asyncio.get_running_loop().create_task(_keep_lease(known))
        _kept.add(keeping)
        keeping.add_done_callback(_kept.discard)
    return await asyncio.shield(known)


async def _keep_lease(begun: asyncio.Future[Lease]) -> None:
    try:
        async with Lease(Path(sys.argv[0]).name).kept() as lease:
            begun.set_result(lease)
            await lease.lost.wait()
    except BaseException as error:
        if begun.done():
            raise
        begun.set_exception(error)
