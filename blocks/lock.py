"""One holder at a time, across all machines: a lock that lives in Prefect's database.

Prefect's own concurrency limits keep who holds them in the server's memory: a server killed while
one is taken leaves it taken for ever. A variable is created by one only, and deleted by its own id
once only. It names the process that holds it, and lasts no longer than that one's lease.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

import httpx
from anyio import move_on_after
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate
from prefect.client.schemas.objects import Variable
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL
from pydantic import BaseModel, ValidationError

from blocks import clock, ownership
from blocks.lease import (
    Lease,
    OwnershipLostError,
    OwnershipUnknownError,
    delete_variable,
    has_lease,
)
from blocks.ownership import Work

PATIENCE = 180.0
"""How many seconds to wait for a living holder."""

POLL_SECONDS = 0.5

RELEASED_AGAIN_AFTER = 5.0
"""Seconds between attempts to release a lock while Prefect's API is away."""

WITHDRAWN_AFTER = (0, 1, 5, 30, 120, 600)
"""Seconds between looks whether an attempt that was given up has got the lock all the same."""

_PREFIX = "batch_close_"
"""Of a variable that is a lock: no other of a Prefect server's variables is ever taken for one."""

_attempts: set[str] = set()
"""What this process holds or tries to. What else is under its id was left by a lost answer."""

_Leases = dict[str | None, asyncio.Future[Lease]]
_leases: WeakKeyDictionary[asyncio.AbstractEventLoop, _Leases] = WeakKeyDictionary()
"""The leases of this process where no worker has one for it, by the API that keeps them."""

_background: set[asyncio.Task[None]] = set()


class LockedError(Exception):
    """Somebody else holds the lock, alive, for longer than anybody should."""


class Holder(BaseModel):
    """Who holds a lock: the process, and which of its attempts to hold it."""

    process: str
    attempt: str


@asynccontextmanager
async def only_holder(name: str, *, patience: float | None = None) -> AsyncIterator[None]:
    """Hold the lock of this name.

    Args:
        name: What is locked; the lock is the Prefect variable `batch_close_<name>`.
        patience: Seconds to wait for a living holder; PATIENCE unless it is given.

    Raises LockedError after that, and httpx.HTTPError where Prefect's API is away.
    """
    variable = f"{_PREFIX}{name}"
    work = ownership.current() or Work(await _lease_of_this_process())
    me = Holder(process=work.lease.process.id, attempt=uuid4().hex)
    _attempts.add(me.attempt)
    try:
        lock = await _acquire(variable, me, PATIENCE if patience is None else patience)
    except BaseException:
        # What was sent may still be carried out, though nobody heard of it.
        _in_background(_withdraw(variable, me))
        raise
    try:
        with ownership.working(work):
            yield
    finally:
        # Also where the run is cancelled, and for as long as Prefect's API may be away.
        releasing = _in_background(_release(lock.id, me))
        with move_on_after(RELEASED_AGAIN_AFTER, shield=True):
            await asyncio.shield(releasing)


async def _acquire(name: str, me: Holder, patience: float) -> Variable:
    began = clock.elapsed()
    async with get_client() as client:
        while True:
            if (lock := await _create(client, name, me)) is not None:
                return lock
            if (held := await client.read_variable_by_name(name)) is None:
                continue
            holder = _holder(held)
            if holder == me:  # the answer to our own attempt was lost
                return held
            if holder is None or await _is_left(client, holder, me):
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


async def _is_left(client: PrefectClient, holder: Holder, me: Holder) -> bool:
    """Whether nobody holds the lock any more, though it is there."""
    if holder.process == me.process:
        return holder.attempt not in _attempts
    return not await has_lease(client, holder.process)


async def _withdraw(name: str, me: Holder) -> None:
    """Delete the lock if it is this attempt's after all: Prefect may be slow to carry it out."""
    for pause in WITHDRAWN_AFTER:
        await asyncio.sleep(pause)
        with suppress(httpx.HTTPError, OwnershipUnknownError, OwnershipLostError):
            async with get_client() as client:
                held = await client.read_variable_by_name(name)
                if held is not None and _holder(held) == me:
                    await delete_variable(client, held.id)
    _attempts.discard(me.attempt)


async def _release(lock_id: UUID, me: Holder) -> None:
    while True:
        try:
            async with get_client() as client:
                await delete_variable(client, lock_id)
        except OwnershipLostError:
            break  # who has taken over from this process removes it
        except (httpx.HTTPError, OwnershipUnknownError):
            pass
        else:
            break
        await asyncio.sleep(RELEASED_AGAIN_AFTER)
    _attempts.discard(me.attempt)


def _holder(lock: Variable) -> Holder | None:
    try:
        return Holder.model_validate(lock.value)
    except ValidationError:
        return None  # as an earlier version wrote it


async def _lease_of_this_process() -> Lease:
    """Begun when it is needed first, and kept until the event loop ends."""
    leases = _leases.setdefault(asyncio.get_running_loop(), {})
    api = PREFECT_API_URL.value()
    known = leases.get(api)
    if known is None or (known.done() and (known.exception() or known.result().is_lost)):
        known = leases[api] = asyncio.get_running_loop().create_future()
        _in_background(_keep_lease(known))
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


def _in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task
