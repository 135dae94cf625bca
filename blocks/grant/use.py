"""What is done with a binding's grant, by one at a time across all machines."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from weakref import WeakKeyDictionary

from anyio import CancelScope
from cachetools import LRUCache
from prefect.logging import get_logger
from pydantic import SecretStr

from blocks import clock, lock, ownership
from blocks.binding import Binding
from blocks.grant import document
from blocks.grant.model import Grant, GrantError, GrantMissingError, has_enough_life
from blocks.lease import OwnershipLostError
from blocks.oauth import GrantLostError, OAuthError, OAuthServer

logger = get_logger("grant")


@dataclass(frozen=True)
class _Refreshed:
    """What this process got of its latest refresh of a grant: read again from memory."""

    access_token: SecretStr | None
    expires_at: datetime | None
    refreshed_at: datetime | None


_recent: LRUCache[Binding, _Refreshed] = LRUCache(10_000)

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


async def load(binding: Binding) -> Grant:
    """The binding's grant; raises GrantMissingError where none is stored."""
    return (await document.read(binding)).grant


async def find(binding: Binding) -> Grant | None:
    """The binding's grant, if one is stored that can be read."""
    try:
        return await load(binding)
    except GrantMissingError:
        return None


async def store(binding: Binding, grant: Grant) -> Grant | None:
    """Store a newly exchanged grant and return the one that it replaces, if any."""
    async with _only_writer(binding):
        replaced = await find(binding)
        await document.write(binding, grant)
        _recent.pop(binding, None)
        return replaced


async def refresh(
    binding: Binding, server: OAuthServer, *, unless: Callable[[Grant], bool] | None = None
) -> Grant:
    """Refresh the grant and store what came back before returning it.

    `unless` looks at what is stored once this is the only writer: another run may have refreshed
    in the meantime, and a refresh token is not spent without need.

    Raises what OAuthServer.refresh raises. The stored grant stays as it is then, except that a
    token refused for good is marked, and refused here from then on without asking the server.
    """
    async with _only_writer(binding), _turn(server):
        # Read after both: what is stored when its turn has come is what is sent.
        found = await document.read(binding)
        if unless and unless(found.grant):
            return found.grant
        if found.grant.lost_because:
            raise GrantLostError(found.grant.lost_because)
        return await _rotate(found, server)


def was_refreshed(binding: Binding, *, since: datetime) -> bool:
    """Whether this process knows that it has refreshed the grant since then; it asks nobody."""
    recent = _recent.get(binding)
    return recent is not None and recent.refreshed_at is not None and recent.refreshed_at >= since


async def access_token(
    binding: Binding, server: OAuthServer, *, rejected: SecretStr | None = None
) -> SecretStr:
    """An access token with enough life left, refreshed if need be; never the rejected one."""

    def is_usable(grant: Grant) -> bool:
        return grant.usable_access_token(clock.now()) not in (None, rejected)

    recent = _recent.get(binding)
    token = recent.access_token if recent else None
    if recent and token and token != rejected and has_enough_life(recent.expires_at, clock.now()):
        return token
    grant = await load(binding)
    if not is_usable(grant):
        grant = await refresh(binding, server, unless=is_usable)
    if grant.access_token is None:
        raise GrantError(f"The OAuth server refreshed {binding} without giving an access token.")
    return grant.access_token


async def delete(binding: Binding, *, patience: float | None = None) -> Grant | None:
    """Forget the binding's grant; returns what was stored, so that it can be revoked.

    Raises LockedError if somebody else has it for longer than `patience`, in seconds.
    """
    async with _only_writer(binding, patience):
        try:
            found = await document.read(binding)
        except GrantMissingError:
            return None
        await found.remove()
        _recent.pop(binding, None)
    return found.grant


async def revoke(grant: Grant | None, server: OAuthServer) -> None:
    """Revoke a grant that is no longer stored, as far as the server lets us."""
    if grant is None or grant.lost_because:
        return
    try:
        await server.revoke(grant.refresh_token)
    except OAuthError as error:
        # The token is forgotten here either way; it dies at the server when its life is over.
        logger.warning("The grant was not revoked: %s", error)


def _only_writer(
    binding: Binding, patience: float | None = None
) -> AbstractAsyncContextManager[None]:
    return lock.only_holder(f"lock-{binding.slug}", patience=patience)


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
    _recent[found.binding] = _Refreshed(fresh.access_token, fresh.expires_at, fresh.refreshed_at)
    return fresh


async def _keep(found: document.Document, fresh: Grant) -> None:
    """Store what a refresh gave, even if this process was given up while it waited for the answer.

    Nobody else has this token. If the one that it replaces is still stored, nobody has refreshed
    meanwhile, and whoever goes on with the night needs it.
    """
    try:
        await found.overwrite(fresh)
    except OwnershipLostError:
        with ownership.working(None):
            async with _only_writer(found.binding):
                stored = await document.read(found.binding)
                if stored.grant.refresh_token == found.grant.refresh_token:
                    await stored.overwrite(fresh)
        raise
