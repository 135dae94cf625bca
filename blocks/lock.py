"""One holder at a time, across all machines: a lock that lives in Prefect's database.

Prefect's own concurrency limits keep who holds them in the server's memory: a server killed while
one is taken leaves it taken for ever. A variable is created by one only, and deleted by its own id
once only. That is all that a lock needs, and it survives the server.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import httpx
from anyio import CancelScope
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate
from prefect.client.schemas.objects import Variable
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.logging import get_logger

BEAT_SECONDS = 10.0
"""How often a holder shows that it lives."""

DEAD_AFTER = 45.0
"""Seconds without a beat after which a holder is taken for dead: counted by who waits, on its own
clock, so that no two clocks have to agree."""

DEAD_AFTER_ITS_RUN = 15.0
"""The same, for a holder whose flow run has ended: a beat was missed, and nobody will go on."""

PATIENCE = 180.0
"""How many seconds to wait for a living holder."""

POLL_SECONDS = 0.5


class LockedError(Exception):
    """Somebody else holds the lock, alive, for longer than anybody should."""


class LockLostError(LockedError):
    """The lock was ours, but somebody took us for dead meanwhile."""


@asynccontextmanager
async def only_holder(name: str) -> AsyncIterator[None]:
    """Hold the lock of this name. A flow run that begins again takes over its own.

    Raises LockedError after PATIENCE, and httpx.HTTPError where Prefect's API is away.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    holder = str(run.id if run else uuid4())
    lock_id = await _acquire(name, holder)
    beating = asyncio.create_task(_beat(lock_id, holder))
    try:
        yield
    finally:
        beating.cancel()
        # Also where the run is cancelled, or whoever is next would wait for a dead one.
        with CancelScope(shield=True):
            await _release(lock_id)


async def _acquire(name: str, holder: str) -> UUID:
    began = beat_at = time.monotonic()
    latest = None
    async with get_client() as client:
        while time.monotonic() - began < PATIENCE:
            if (lock := await _create(client, name, holder)) is not None:
                return lock.id
            if (held := await client.read_variable_by_name(name)) is None:
                continue
            if (held.id, held.value) != latest:
                latest, beat_at = (held.id, held.value), time.monotonic()
            silent_for = time.monotonic() - beat_at
            if _is_held_by(held, holder) or await _is_dead(client, held, silent_for):
                await _delete(client, held.id)
            else:
                await asyncio.sleep(POLL_SECONDS)
    raise LockedError(f"{name} is locked by another run, for over {PATIENCE:g} seconds.")


async def _create(client: PrefectClient, name: str, holder: str) -> Variable | None:
    try:
        return await client.create_variable(VariableCreate(name=name, value=_value(holder)))
    except ObjectAlreadyExists:
        return None


async def _beat(lock_id: UUID, holder: str) -> None:
    for beats in count(1):
        await asyncio.sleep(BEAT_SECONDS)
        change = {"value": _value(holder, beats)}
        try:
            async with get_client() as client:
                await client.request(
                    "PATCH", "/variables/{id}", path_params={"id": lock_id}, json=change
                )
        except httpx.HTTPError as error:
            get_logger("lock").warning("A lock's holder could not be shown to live: %s", error)


async def _release(lock_id: UUID) -> None:
    try:
        async with get_client() as client:
            await _delete(client, lock_id)
    except httpx.HTTPError as error:
        # Whoever wants it next waits until it is taken for dead.
        get_logger("lock").warning("A lock could not be released: %s", error)


async def _delete(client: PrefectClient, lock_id: UUID) -> None:
    try:
        await client.request("DELETE", "/variables/{id}", path_params={"id": lock_id})
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.NOT_FOUND:
            raise


async def _is_dead(client: PrefectClient, lock: Variable, silent_for: float) -> bool:
    if DEAD_AFTER_ITS_RUN < silent_for <= DEAD_AFTER:
        return await _has_ended(client, lock)
    return silent_for > DEAD_AFTER


async def _has_ended(client: PrefectClient, lock: Variable) -> bool:
    """Whether the holder's flow run is over: one that was killed may end without coming here."""
    try:
        run = await client.read_flow_run(UUID(_holder_of(lock)))
    except (ObjectNotFound, ValueError):
        return False
    return run.state is not None and run.state.is_final()


def _value(holder: str, beats: int = 0) -> dict[str, Any]:
    return {"holder": holder, "beats": beats}


def _is_held_by(lock: Variable, holder: str) -> bool:
    return _holder_of(lock) == holder


def _holder_of(lock: Variable) -> str:
    return str(lock.value.get("holder")) if isinstance(lock.value, dict) else ""
