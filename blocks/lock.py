"""One holder at a time, across all machines: a lock that lives in Prefect's database.

Prefect's own concurrency limits keep who holds them in the server's memory: a server killed while
one is taken leaves it taken for ever. A variable is created by one only, and deleted by its own id
once only. It names the process that holds it, and lasts no longer than that one's lease.

Except where what is done under it must not be done twice: a process that only stands still will
wake with the answer to it. So others wait longer then, unless they see that it is gone.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID, uuid4

import httpx
from anyio import move_on_after
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate
from prefect.client.schemas.objects import Variable
from prefect.exceptions import ObjectAlreadyExists
from pydantic import BaseModel, ValidationError

from blocks import clock, ownership
from blocks.lease import OwnershipLostError, OwnershipUnknownError, lease_of_this_process
from blocks.liveness import delete_variable, has_lease
from blocks.ownership import Work
from blocks.process import Process

PATIENCE = 180.0
"""How many seconds to wait for a living holder."""

POLL_SECONDS = 0.5

RELEASED_AGAIN_AFTER = 5.0
"""Seconds between attempts to release a lock while Prefect's API is away."""

WITHDRAWN_AFTER = (0, 1, 5, 30, 120, 600)
"""Seconds between looks whether an attempt that was given up has got the lock all the same."""

_PREFIX = "batch_close_"
"""Of a variable that is a lock: no other of a Prefect server's variables is ever taken for one."""

ONCE_ONLY_LEASES = 3
"""How many lengths of its holder's lease a lock lasts at least under which something is done that
must not be done twice, unless its holder is seen to be gone. Counted from when it was taken."""

_attempts: set[str] = set()
"""What this process holds or tries to. What else is under its id was left by a lost answer."""

_background: set[asyncio.Task[None]] = set()


class LockedError(Exception):
    """Somebody else holds the lock, alive, for longer than anybody should."""


class Holder(BaseModel):
    """Who holds a lock.

    Attributes:
        process: The process, as it was then.
        attempt: Which of its attempts to hold it.
        is_once_only: Whether what it does must not be done a second time.
    """

    process: Process
    attempt: str
    is_once_only: bool = False


_held: ContextVar[Mapping[str, Holder]] = ContextVar("held", default=MappingProxyType({}))
"""The locks that the work under way holds, by their variables."""


@asynccontextmanager
async def only_holder(
    name: str, *, patience: float | None = None, is_once_only: bool = False
) -> AsyncIterator[None]:
    """Hold the lock of this name.

    Args:
        name: What is locked; the lock is the Prefect variable `batch_close_<name>`.
        patience: Seconds to wait for a living holder; PATIENCE unless it is given.
        is_once_only: Whether what is done meanwhile must not be done a second time.

    Raises LockedError after that, and httpx.HTTPError where Prefect's API is away.
    """
    variable = f"{_PREFIX}{name}"
    work = ownership.current() or Work(await lease_of_this_process())
    me = Holder(
        process=work.lease.process.model_copy(), attempt=uuid4().hex, is_once_only=is_once_only
    )
    _attempts.add(me.attempt)
    try:
        lock = await _acquire(variable, me, PATIENCE if patience is None else patience)
    except BaseException:
        # What was sent may still be carried out, though nobody heard of it.
        _in_background(_withdraw(variable, me))
        raise
    token = _held.set({**_held.get(), variable: me})
    try:
        with ownership.working(work):
            yield
    finally:
        _held.reset(token)
        # Also where the run is cancelled, and for as long as Prefect's API may be away.
        releasing = _in_background(_release(lock.id, me))
        with move_on_after(RELEASED_AGAIN_AFTER, shield=True):
            await asyncio.shield(releasing)


@asynccontextmanager
async def still_holder(name: str) -> AsyncIterator[None]:
    """Go on under the lock that this work holds, though its lease was lost; or take it anew."""
    if not await _is_held_still(f"{_PREFIX}{name}"):
        with ownership.working(None):
            async with only_holder(name):
                yield
        return
    with ownership.working(Work(await lease_of_this_process())):
        yield


async def _acquire(name: str, me: Holder, patience: float) -> Variable:
    began = clock.elapsed()
    async with get_client() as client:
        while True:
            if (lock := await _create(client, name, me)) is not None:
                return lock
            if (held := await client.read_variable_by_name(name)) is None:
                continue
            holder = _holder(held)
            if holder and holder.attempt == me.attempt:  # the answer to our own attempt was lost
                return held
            if holder is None or await _is_left(client, holder, me, since=held.created):
                await delete_variable(client, held.id)
            elif clock.elapsed() - began > patience:
                raise LockedError(
                    f"{name} is locked by somebody who lives, for over {patience:g} seconds."
                )
            else:
                await asyncio.sleep(POLL_SECONDS)


async def _create(client: PrefectClient, name: str, me: Holder) -> Variable | None:
    asked_at = clock.elapsed()
    try:
        lock = await client.create_variable(VariableCreate(name=name, value=me.model_dump()))
    except ObjectAlreadyExists:
        return None
    if lock.created:
        clock.compare(lock.created, asked_at=asked_at)
    return lock


async def _is_held_still(name: str) -> bool:
    """Whether this very work holds the lock, and nobody has taken it over."""
    if (mine := _held.get().get(name)) is None:
        return False
    async with get_client() as client:
        held = await client.read_variable_by_name(name)
    holder = _holder(held) if held else None
    return holder is not None and holder.attempt == mine.attempt


async def _is_left(
    client: PrefectClient, holder: Holder, me: Holder, *, since: datetime | None
) -> bool:
    """Whether nobody holds the lock any more, though it is there."""
    if holder.process.id == me.process.id:
        return holder.attempt not in _attempts
    if await has_lease(client, holder.process.id):
        return False
    if not holder.is_once_only or holder.process.is_surely_gone or since is None:
        return True
    return (clock.now() - since).total_seconds() >= ONCE_ONLY_LEASES * holder.process.seconds


async def _withdraw(name: str, me: Holder) -> None:
    """Delete the lock if it is this attempt's after all: Prefect may be slow to carry it out."""
    for pause in WITHDRAWN_AFTER:
        await asyncio.sleep(pause)
        with suppress(httpx.HTTPError, OwnershipUnknownError, OwnershipLostError):
            async with get_client() as client:
                held = await client.read_variable_by_name(name)
                holder = _holder(held) if held else None
                if held and holder and holder.attempt == me.attempt:
                    await delete_variable(client, held.id)
    _attempts.discard(me.attempt)


async def _release(lock_id: UUID, me: Holder) -> None:
    # Under no lease: by its id it is this lock only, and not one that somebody took over.
    with ownership.working(None):
        while True:
            with suppress(httpx.HTTPError):
                async with get_client() as client:
                    await delete_variable(client, lock_id)
                break
            await asyncio.sleep(RELEASED_AGAIN_AFTER)
    _attempts.discard(me.attempt)


def _holder(lock: Variable) -> Holder | None:
    try:
        return Holder.model_validate(lock.value)
    except ValidationError:
        return None  # as an earlier version wrote it


def _in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task
