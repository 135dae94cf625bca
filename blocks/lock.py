"""One holder at a time, across all machines: locks that live in Prefect's database.

Prefect's own concurrency limits keep who holds them in the server's memory: a server killed while
one is taken leaves it taken for ever. Here each process has a list of what it has locked. It puts a
lock onto its list (`own_lock_list`), and reads the others' lists after that (`lock_list`). If the
lock is on none of them, it holds it. If it is, the process steps back and tries again after a
pause. Two may step back at once; their pauses differ.

A list counts for as long as its process has a lease. Except where what is done must not be done
twice: a process that only stands still will wake with the answer to it. So others wait longer then,
unless they see that it is gone.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from datetime import timedelta

from prefect.client.orchestration import PrefectClient, get_client

from blocks import clock, ownership
from blocks.lease import RENEWALS, Lease, OwnershipUnknownError, lease_of_this_process
from blocks.liveness import delete_variable, has_lease
from blocks.lock_list import Locked, LockList, digest, read_all, read_lists
from blocks.own_lock_list import OwnLockList
from blocks.ownership import Work

PATIENCE = 180.0
"""How many seconds to wait for a living holder."""

POLL_SECONDS = 0.5
"""The pause between two looks at least, half of it to one and a half."""

ONCE_ONLY_LEASES = 3
"""How many lengths of its holder's lease a lock lasts at least under which something is done that
must not be done twice, unless its holder is seen to be gone. Counted from when it was taken, or
`counted_anew`."""

KEPT_FOR = timedelta(hours=1)
"""How long a list is kept at least after it was written."""

_NOTHING = Locked(0, is_once_only=False, since=0)


class LockedError(Exception):
    """Somebody else holds the lock, alive, for longer than anybody should."""


_holds_another: ContextVar[bool] = ContextVar("holds_another", default=False)
"""Whether the work under way holds a lock already."""


@asynccontextmanager
async def only_holder(
    name: str, *, patience: float | None = None, is_once_only: bool = False
) -> AsyncIterator[None]:
    """Hold the lock of this name.

    Args:
        name: What is locked.
        patience: Seconds to wait for a living holder; PATIENCE unless it is given.
        is_once_only: Whether what is done meanwhile must not be done a second time.

    Raises LockedError after that, httpx.HTTPError where Prefect's API is away, and
    OwnershipLostError and OwnershipUnknownError where this process may have been given up.
    """
    work = ownership.current() or Work(await lease_of_this_process())
    async with _holding(name, work.lease, patience=patience, is_once_only=is_once_only):
        with ownership.working(work):
            yield


async def counted_anew(name: str, *, after: float) -> bool:
    """Have others count from now how long a lock lasts that this work holds once only.

    Args:
        name: What is locked.
        after: Seconds since it was taken within which nothing is asked.

    Returns whether it was taken longer ago. Raises what `only_holder` raises.
    """
    work = ownership.current() or Work(await lease_of_this_process())
    own = OwnLockList.of(work.lease)
    if own.held_for(name) <= after:
        return False
    await _require(work.lease)
    own.count_anew(name)
    await own.publish()
    return True


@asynccontextmanager
async def still_holder(name: str) -> AsyncIterator[None]:
    """Go on for a moment under the lock that this work holds once only, though its lease was lost.

    Others may have had it meanwhile, so what it guards is to be looked at again. They are kept out
    from now on for as long as what is done here may take: TimeoutError is raised after a lease.

    Raises LockedError where somebody else has it, or is stepping back from it at this moment.
    """
    lost = ownership.current() or Work(await lease_of_this_process())
    own = OwnLockList.of(lost.lease)
    with ownership.working(Work(await lease_of_this_process())):
        async with asyncio.timeout(own.process.seconds):
            # Two that were given up must not keep each other out for ever: look first.
            if await _is_free(name, await own.others()):
                own.count_anew(name)
                if await _is_free(name, await own.publish()):
                    yield
                    return
    raise _locked(name, 0)


async def delete_left(client: PrefectClient) -> None:
    """Delete the lists of processes that are gone, and those that a process has begun others after.

    Raises httpx.HTTPError where Prefect's API is away.
    """
    latest = {stored.variable_id for stored in await read_lists(client)}
    for stored in await read_all(client):
        if clock.now() - stored.updated < KEPT_FOR:
            continue
        lasting = [it for it in stored.listed.locked.values() if it.is_once_only] or [_NOTHING]
        is_over = stored.variable_id not in latest
        if is_over or all([await _is_left(stored.listed, locked) for locked in lasting]):
            await delete_variable(client, stored.variable_id)


@asynccontextmanager
async def _holding(
    name: str,
    lease: Lease,
    *,
    patience: float | None = None,
    is_once_only: bool = False,
) -> AsyncIterator[None]:
    own, patience = OwnLockList.of(lease), PATIENCE if patience is None else patience
    until = clock.elapsed() + patience
    async with _room_for(name, own, patience, is_once_only), _turn_of(name, own, patience):
        try:
            await _lock(name, lease, until, is_once_only=is_once_only)
            token = _holds_another.set(True)
            try:
                yield
            finally:
                _holds_another.reset(token)
        finally:
            own.unlock(name)


@asynccontextmanager
async def _room_for(
    name: str, own: OwnLockList, patience: float, is_once_only: bool
) -> AsyncIterator[None]:
    """Have room on this process's list."""
    async with AsyncExitStack() as room:
        try:
            async with asyncio.timeout(patience):
                # Who has a lock already has room for another: all might wait for each other.
                if not _holds_another.get():
                    if is_once_only:
                        await room.enter_async_context(own.room_once_only)
                    await room.enter_async_context(own.room)
        except TimeoutError:
            raise _locked(name, patience) from None
        yield


@asynccontextmanager
async def _turn_of(name: str, own: OwnLockList, patience: float) -> AsyncIterator[None]:
    """Be the only one of this process that wants the lock."""
    turn = own.turns.setdefault(name, asyncio.Lock())
    try:
        async with asyncio.timeout(patience):
            await turn.acquire()
    except TimeoutError:
        raise _locked(name, patience) from None
    try:
        yield
    finally:
        turn.release()


async def _lock(name: str, lease: Lease, until: float, *, is_once_only: bool) -> None:
    own, began = OwnLockList.of(lease), clock.elapsed()
    while True:
        await _require(lease)
        own.lock(name, is_once_only=is_once_only)
        asked_at = clock.elapsed()
        if await _is_free(name, await own.publish()):
            return
        own.unlock(name)
        # Where Prefect is slow, two would meet again and again.
        pause = max(POLL_SECONDS, 2 * (clock.elapsed() - asked_at))
        while True:
            if clock.elapsed() > until:
                raise _locked(name, until - began)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            if await _is_free(name, await own.others()):
                break


async def _require(lease: Lease) -> None:
    """Return once the lease is surely this process's: after a pause that is known in a moment."""
    doubtful_until = clock.elapsed() + lease.process.seconds / RENEWALS
    while True:
        try:
            await lease.require()
        except OwnershipUnknownError:
            if clock.elapsed() >= doubtful_until:
                raise
            await asyncio.sleep(POLL_SECONDS)
        else:
            return


async def _is_free(name: str, lists: list[LockList]) -> bool:
    for found in lists:
        locked = found.locked.get(digest(name))
        if locked and not await _is_left(found, locked):
            return False
    return True


async def _is_left(found: LockList, locked: Locked) -> bool:
    """Whether nobody holds the lock any more, though it is on a list."""
    async with get_client() as client:
        if await has_lease(client, found.process.id):
            return False
    if not locked.is_once_only or found.process.is_surely_gone:
        return True
    lasts = ONCE_ONLY_LEASES * found.process.seconds
    return clock.now().timestamp() - locked.since >= lasts


def _locked(name: str, patience: float) -> LockedError:
    return LockedError(f"{name} is locked by somebody who lives, for over {patience:.0f} seconds.")
