"""What is done with a binding's grant, by one at a time across all machines."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from weakref import WeakKeyDictionary

import httpx
from anyio import CancelScope
from cachetools import LRUCache
from prefect.logging import get_logger
from pydantic import SecretStr

from blocks import clock, lock, ownership
from blocks.binding import Binding
from blocks.grant import document, revoking
from blocks.grant.model import Grant, GrantError, GrantMissingError, has_enough_life
from blocks.lease import OwnershipLostError, OwnershipUnknownError
from blocks.lock import LockedError
from blocks.oauth import GrantLostError, OAuthServer

JUST_READ = 10.0
"""Seconds for which what was read of a grant under its lock is believed."""

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


async def _find_even_over(binding: Binding) -> Grant | None:
    try:
        return (await document.read_even_over(binding)).grant
    except GrantMissingError:
        return None


async def find_several(bindings: Sequence[Binding]) -> dict[str, Grant]:
    """The grants of these bindings, 200 at most, by their slugs; without those that are unreadable.

    Also those that are over. Raises httpx.HTTPError where Prefect's API is away.
    """
    return await document.read_several(bindings)


async def store(binding: Binding, grant: Grant, *, revoke_replaced: bool = False) -> None:
    """Store a newly exchanged grant; with it, if wanted, what is to be revoked of the one before.

    It is one write, so that no kill can leave a replaced grant that nobody remembers. Its only copy
    is in memory: so this goes on for as long as Prefect's API may be away.

    Raises OwnershipLostError where this work's run or lease is not its own any more, and GrantError
    if Prefect refuses for good.
    """
    for pause in document.STORE_PAUSES:
        try:
            await ownership.require()
            await _store(binding, grant, revoke_replaced=revoke_replaced)
        except (httpx.HTTPError, LockedError, OwnershipUnknownError) as trouble:
            kind = type(trouble).__name__
            logger.warning("The new grant of %s is not stored yet (%s).", binding, kind)
            await asyncio.sleep(pause)
        else:
            return
    raise GrantError(f"Prefect did not store the OAuth grant of {binding}: configure it again.")


async def _store(binding: Binding, grant: Grant, *, revoke_replaced: bool) -> None:
    async with _only_writer(binding):
        replaced = await _find_even_over(binding)
        grant = grant.replacing(replaced, clock.now(), revoke=revoke_replaced)
        await document.write(binding, grant)
        _recent.pop(binding, None)


async def refresh(
    binding: Binding, server: OAuthServer, *, unless: Callable[[Grant], bool] | None = None
) -> Grant:
    """Refresh the grant and store what came back before returning it.

    `unless` looks at what is stored once this is the only writer: another run may have refreshed
    in the meantime, and a refresh token is not spent without need.

    Raises what OAuthServer.refresh raises. The stored grant stays as it is then, except that a
    token refused for good is marked, and refused here from then on without asking the server.
    """
    async with _only_writer(binding, is_once_only=True):
        found = await document.read(binding)
        if unless and unless(found.grant):
            return found.grant
        read_at = clock.elapsed()
        async with _turn(server):
            if clock.elapsed() - read_at > JUST_READ:  # people may have stored another meanwhile
                found = await document.read(binding)
            if found.grant.lost_because:
                raise GrantLostError(found.grant.lost_because)
            fresh = await _rotate(found, server)
    if fresh.to_revoke:
        await _revoke_if_possible(binding, server)
    return fresh


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


async def forget(
    binding: Binding,
    server: OAuthServer,
    *,
    patience: float | None = None,
    within: float | None = None,
) -> bool:
    """Revoke the binding's grant, and delete it; none is fine.

    In this order, so that whoever goes on after a kill finds it, and revokes it again. While the
    server is away it is kept, as one that is over: nobody can use it, and workers call this again,
    for three days. Returns whether nothing is left to revoke.

    Args:
        binding: Whose grant.
        server: What has given it.
        patience: Seconds to wait for somebody else who has it; LockedError is raised after that.
        within: Seconds to wait for the server, if not as long as it takes.
    """
    async with _only_writer(binding, patience):
        try:
            found = await document.read_even_over(binding)
        except GrantMissingError:
            return True
        _recent.pop(binding, None)
        is_revoked = await _is_revoked(found.grant, server, within)
        if is_revoked or revoking.is_given_up(found.grant.over_since):
            await found.remove()
        elif not found.grant.over_since:
            await document.write(binding, found.grant.over(clock.now()))
    return is_revoked


async def _is_revoked(grant: Grant, server: OAuthServer, within: float | None) -> bool:
    try:
        async with asyncio.timeout(within):
            return await revoking.all_of(grant, server)
    except TimeoutError:
        logger.warning("A grant was not revoked in time: a worker tries it again.")
        return False


async def complete(binding: Binding, server: OAuthServer) -> bool:
    """Note that the binding's configuration is done, and revoke what the stored grant has replaced.

    What the server does not revoke now is tried again after the next refresh, and by workers.
    Returns whether anything was revoked; raises GrantMissingError where no grant is stored.
    """
    async with _only_writer(binding):
        found = await document.read(binding)
        left = await revoking.left_of(found.grant.to_revoke, server)
        whole = found.grant.model_copy(update={"to_revoke": left, "instead_of": None})
        if whole != found.grant:
            await found.overwrite(whole)
    return len(left) < len(found.grant.to_revoke)


async def revoke_replaced(binding: Binding, server: OAuthServer) -> bool:
    """Revoke what the stored grant has replaced; whether nothing is left of that.

    Raises GrantMissingError where no grant is stored.
    """
    async with _only_writer(binding):
        found = await document.read(binding)
        left = await revoking.left_of(found.grant.to_revoke, server)
        if left != found.grant.to_revoke:
            await found.overwrite(found.grant.model_copy(update={"to_revoke": left}))
    return not left


async def revoke(grant: Grant | None, server: OAuthServer) -> bool:
    """Revoke a grant, and what it has replaced, as far as the server lets us.

    Returns whether nothing of it is left that another attempt could end.
    """
    return grant is None or await revoking.all_of(grant, server)


async def _revoke_if_possible(binding: Binding, server: OAuthServer) -> None:
    try:
        await revoke_replaced(binding, server)
    except (GrantError, LockedError, OwnershipUnknownError, httpx.HTTPError) as trouble:
        # The night goes on: this is tried again after the next.
        logger.warning("A replaced grant of %s is kept (%s).", binding, type(trouble).__name__)


def _only_writer(
    binding: Binding, patience: float | None = None, *, is_once_only: bool = False
) -> AbstractAsyncContextManager[None]:
    return lock.only_holder(_lock_of(binding), patience=patience, is_once_only=is_once_only)


def _lock_of(binding: Binding) -> str:
    return f"lock-{binding.slug}"


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
    meanwhile, and whoever goes on with the night needs it. So it is tried for as long as Prefect
    may be away.
    """
    try:
        await found.overwrite(fresh)
    except OwnershipLostError:
        for pause in (0, *document.STORE_PAUSES):
            await asyncio.sleep(pause)
            with suppress(httpx.HTTPError, OwnershipUnknownError, LockedError, OwnershipLostError):
                await _rescue(found, fresh)
                break
        raise


async def _rescue(found: document.Document, fresh: Grant) -> None:
    async with lock.still_holder(_lock_of(found.binding)):
        stored = await document.read(found.binding)
        if stored.grant.refresh_token == found.grant.refresh_token:
            await stored.overwrite(fresh.with_duties_of(stored.grant))
