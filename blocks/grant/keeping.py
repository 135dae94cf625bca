"""A binding's stored grant from its exchange to its revocation, by one writer at a time.

How it is refreshed in between is in `refreshing`.
"""

import asyncio
from collections.abc import Sequence

import httpx
from prefect.logging import get_logger

from blocks import clock, ownership
from blocks.binding import Binding
from blocks.grant import document, recent, revoking
from blocks.grant.document import only_writer
from blocks.grant.model import Grant, GrantError, GrantMissingError
from blocks.lease import OwnershipUnknownError
from blocks.lock import LockedError
from blocks.oauth import OAuthServer

logger = get_logger("grant")


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
    async with only_writer(binding):
        replaced = await _find_even_over(binding)
        grant = grant.replacing(replaced, clock.now(), revoke=revoke_replaced)
        await document.write(binding, grant)
        recent.forget(binding)


async def complete(binding: Binding, server: OAuthServer) -> bool:
    """Note that the binding's configuration is done, and revoke what the stored grant has replaced.

    What the server does not revoke now is tried again after the next refresh, and by workers.
    Returns whether anything was revoked; raises GrantMissingError where no grant is stored.
    """
    async with only_writer(binding):
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
    async with only_writer(binding):
        found = await document.read(binding)
        left = await revoking.left_of(found.grant.to_revoke, server)
        if left != found.grant.to_revoke:
            await found.overwrite(found.grant.model_copy(update={"to_revoke": left}))
    return not left


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
    async with only_writer(binding, patience):
        try:
            found = await document.read_even_over(binding)
        except GrantMissingError:
            return True
        recent.forget(binding)
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


async def revoke(grant: Grant | None, server: OAuthServer) -> bool:
    """Revoke a grant, and what it has replaced, as far as the server lets us.

    Returns whether nothing of it is left that another attempt could end.
    """
    return grant is None or await revoking.all_of(grant, server)
