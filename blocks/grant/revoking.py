"""How grants that nobody needs are ended at the OAuth server, without losing count of them."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from prefect.logging import get_logger
from pydantic import SecretStr

from blocks import clock
from blocks.grant.model import Grant, Replaced
from blocks.oauth import OAuthError, OAuthServer, RevocationRefusedError

GIVEN_UP_AFTER = timedelta(days=3)
"""How long a grant that nobody needs is kept which the OAuth server does not revoke."""

logger = get_logger("grant")


async def left_of(replaced: Sequence[Replaced], server: OAuthServer) -> tuple[Replaced, ...]:
    """Revoke these; returns those to try again later: the server is away.

    The server's block may say that nothing is to be revoked: then nothing is left of them.
    """
    if not server.revoke_replaced:
        return ()
    for number, it in enumerate(replaced):
        if not await _is_over(it.refresh_token, server):
            # Whoever does not answer for one does not for the next: each takes its time.
            return tuple(later for later in replaced[number:] if not is_given_up(later.at))
    return ()


async def all_of(grant: Grant, server: OAuthServer) -> bool:
    """Revoke a grant that is not needed any more, and what it has replaced.

    Returns whether nothing of it is left that another attempt could end.
    """
    left = await left_of(grant.to_revoke, server)
    return bool(grant.lost_because or await _is_over(grant.refresh_token, server)) and not left


async def _is_over(token: SecretStr, server: OAuthServer) -> bool:
    """Revoke the token; whether there is no use in another attempt."""
    try:
        await server.revoke(token)
    except RevocationRefusedError as refused:
        logger.warning("A grant was not revoked: %s", refused)
    except OAuthError as error:
        logger.warning("A grant is not revoked now: %s", error)
        return False
    return True


def is_given_up(since: datetime | None) -> bool:
    """Whether a grant that nobody has needed since then is not worth another attempt; says so."""
    is_old = since is not None and clock.now() - since >= GIVEN_UP_AFTER
    if is_old:
        logger.error(
            "A grant that was replaced or ended at %s was never revoked: end it at the OAuth"
            " server by hand, or it runs out.",
            since,
        )
    return is_old
