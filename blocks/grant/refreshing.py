"""A binding's grant is refreshed, and its access token given out.

The rotated refresh token is stored before anything is done with the access token that came with it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from weakref import WeakKeyDictionary

import httpx
from anyio import CancelScope
from prefect.logging import get_logger
from pydantic import SecretStr

from blocks import clock, lock
from blocks.binding import Binding
from blocks.grant import document, recent
from blocks.grant.document import only_writer
from blocks.grant.keeping import load, revoke_replaced
from blocks.grant.model import Grant, GrantError, has_enough_life
from blocks.lease import OwnershipLostError, OwnershipUnknownError
from blocks.lock import LockedError
from blocks.oauth import GrantLostError, OAuthServer

JUST_READ = 10.0
"""Seconds after a lock was taken for which that counts, and what was read of the grant then."""

QUEUED = 2.0
"""Seconds after which a refresh has queued: what was so before may not be so any more."""

_PASSING = (httpx.HTTPError, TimeoutError, OwnershipUnknownError, LockedError)

logger = get_logger("grant")

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


async def refresh(
    binding: Binding,
    server: OAuthServer,
    *,
    unless: Callable[[Grant], bool] | None = None,
    after_queue: Callable[[], Awaitable[None]] | None = None,
) -> Grant:
    """Refresh the grant and store what came back before returning it.

    `unless` looks at what is stored once this is the only writer: another run may have refreshed
    in the meantime, and a refresh token is not spent without need. `after_queue` is called right
    before the request, if that has queued: nothing is sent where it raises.

    Raises what OAuthServer.refresh raises. The stored grant stays as it is then, except that a
    token refused for good is marked, and refused here from then on without asking the server.
    """
    async with only_writer(binding, is_once_only=True):
        found = await document.read(binding)
        if unless and unless(found.grant):
            return found.grant
        queued_at = clock.elapsed()
        async with _turn(server):
            if after_queue and clock.elapsed() - queued_at >= QUEUED:
                await after_queue()
            # Others wait for what has left, not for what has queued; and people may have stored
            # another meanwhile.
            if await lock.counted_anew(binding.lock, after=JUST_READ):
                found = await document.read(binding)
            if found.grant.lost_because:
                raise GrantLostError(found.grant.lost_because)
            fresh = await _rotate(found, server)
    if fresh.to_revoke:
        await _revoke_if_possible(binding, server)
    return fresh


async def access_token(
    binding: Binding,
    server: OAuthServer,
    *,
    rejected: SecretStr | None = None,
    after_queue: Callable[[], Awaitable[None]] | None = None,
) -> SecretStr:
    """An access token with enough life left, refreshed if need be; never the rejected one.

    `after_queue` and what is raised: see `refresh`.
    """

    def is_usable(grant: Grant) -> bool:
        return grant.usable_access_token(clock.now()) not in (None, rejected)

    known = recent.of(binding)
    token = known.access_token if known else None
    if known and token and token != rejected and has_enough_life(known.expires_at, clock.now()):
        return token
    grant = await load(binding)
    if not is_usable(grant):
        grant = await refresh(binding, server, unless=is_usable, after_queue=after_queue)
    if grant.access_token is None:
        raise GrantError(f"The OAuth server refreshed {binding} without giving an access token.")
    return grant.access_token


async def _revoke_if_possible(binding: Binding, server: OAuthServer) -> None:
    try:
        await revoke_replaced(binding, server)
    except (GrantError, LockedError, OwnershipUnknownError, httpx.HTTPError) as trouble:
        # The night goes on: this is tried again after the next.
        logger.warning("A replaced grant of %s is kept (%s).", binding, type(trouble).__name__)


def _turn(server: OAuthServer) -> asyncio.Semaphore:
    """One of the few refreshes that a process has under way: what a kill would cost."""
    return _turns.setdefault(
        asyncio.get_running_loop(), asyncio.Semaphore(server.refreshes_at_once)
    )


async def _rotate(found: document.Document, server: OAuthServer) -> Grant:
    # A worker that is told to stop in between would take the rotated token with it.
    with CancelScope(shield=True):
        try:
            tokens = await server.refresh(found.grant.refresh_token)
            fresh = found.grant.rotated(tokens, clock.now())
        except GrantLostError as lost:
            await found.overwrite(found.grant.lost(str(lost)))
            raise
        await _keep(found, fresh)
    recent.remember(found.binding, fresh)
    return fresh


async def _keep(found: document.Document, fresh: Grant) -> None:
    """Store what a refresh gave, even if this process was given up while it waited for the answer.

    Nobody else has this token. If the one that it replaces is still stored, nobody has refreshed
    meanwhile, and whoever goes on with the night needs it. So it is tried for as long as Prefect
    may be away.
    """
    try:
        await found.overwrite(fresh)
    except OwnershipLostError:
        for pause in (0, *document.STORE_PAUSES):
            await asyncio.sleep(pause)
            with suppress(*_PASSING, OwnershipLostError):
                if await _is_rescued(found, fresh):
                    break
        raise


async def _is_rescued(found: document.Document, fresh: Grant) -> bool:
    """Store it in one attempt for each look, unless the old one was replaced; whether that is over.

    What was seen of the lock and of the grant is not true for long.
    """
    async with lock.still_holder(found.binding.lock):
        stored = await document.read(found.binding)
        if stored.grant.refresh_token == found.grant.refresh_token:
            return await stored.try_to_overwrite(fresh.with_duties_of(stored.grant))
    return True
