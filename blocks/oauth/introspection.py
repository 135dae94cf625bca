"""How often a server is asked about callers' tokens (RFC 7662): one that suffers is left alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from weakref import WeakKeyDictionary

from blocks.oauth.errors import OAuthError, ServerUnavailableError
from blocks.oauth.operations import INTROSPECTION
from blocks.oauth.shared_fetch import FAILURE_KEPT_FOR

AT_ONCE = 8
"""Tokens that one process asks about at the same time, however many callers there are."""

WAITED_FOR = 5.0
"""Seconds that a caller waits for the others' tokens to be asked about."""

_AWAY = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}


@dataclass
class _Endpoint:
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    away: OAuthError | None = None
    away_until: float = 0.0


_endpoints: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Endpoint]]
_endpoints = WeakKeyDictionary()


@asynccontextmanager
async def turn(url: str) -> AsyncIterator[None]:
    """A turn at asking this endpoint.

    What it answers about one token it is asked for about the next all the same: whoever finds a
    token that makes it fail must not keep the others out. That it is away it says for all.

    Raises:
        ServerUnavailableError: It was away a moment ago, or too many tokens are asked about.
    """
    loop = asyncio.get_running_loop()
    endpoint = _endpoints.setdefault(loop, {}).setdefault(url, _Endpoint())
    try:
        async with asyncio.timeout(WAITED_FOR):
            await endpoint.places.acquire()
    except TimeoutError:
        raise INTROSPECTION.unavailable("too many tokens are asked about at once") from None
    try:
        if endpoint.away is not None and loop.time() < endpoint.away_until:
            raise endpoint.away.with_traceback(None)
        yield
    except OAuthError as failure:
        if failure is not endpoint.away and _is_away(failure):
            endpoint.away, endpoint.away_until = failure, loop.time() + FAILURE_KEPT_FOR
        raise
    finally:
        endpoint.places.release()


def _is_away(failure: OAuthError) -> bool:
    """Whether it is the server's word on itself, and not on the token that it was asked about."""
    return isinstance(failure, ServerUnavailableError) or failure.status in _AWAY
