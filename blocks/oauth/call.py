"""One call of the OAuth server: sent, judged, read, and tried again where that is safe."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import httpx
from prefect.logging import get_logger

from blocks import clock
from blocks.http import ANSWER_WITHIN, Reply, send, shared_client
from blocks.lease import OwnershipUnknownError
from blocks.oauth.errors import OAuthError, TransientOAuthError
from blocks.oauth.operations import Operation
from blocks.oauth.replies import judge
from blocks.oauth.retries import Retries
from blocks.quoting import quotable

_log = get_logger(__name__)

Read = TypeVar("Read")

# Before any of these the request has not left. (Only https goes through a proxy, as a tunnel, so
# that a proxy's refusal comes before the request as well.)
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


@dataclass(frozen=True)
class Clock:
    """Where time comes from and how it passes; tests bring their own."""

    now: Callable[[], datetime] = field(default=clock.now)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(frozen=True)
class Attempt:
    """A request built for one attempt, and the values in it that must never be shown."""

    request: httpx.Request
    within: float
    """Seconds that the attempt may take."""
    secrets: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for a connection, and for the server to answer on it."""

    connect: float
    read: float

    @property
    def whole(self) -> float:
        """Seconds after which an attempt ends: for a place in the pool, a connection, the reply."""
        return 2 * self.connect + self.read

    def build(
        self, method: str, url: str, headers: dict[str, str], content: bytes | None = None
    ) -> httpx.Request:
        """A request that is given up after these timeouts."""
        return shared_client().build_request(
            method,
            url,
            headers=headers,
            content=content,
            timeout=httpx.Timeout(None, connect=self.connect, pool=self.connect),
            extensions={ANSWER_WITHIN: self.read},
        )


async def call(
    operation: Operation,
    attempt: Callable[[], Attempt],
    read: Callable[[Reply, datetime], Read],
    *,
    clock: Clock,
    patience: float,
) -> Read:
    """Make one call, trying again as `Retries` allows.

    Args:
        operation: What is asked; it decides which error a refusal is.
        attempt: Builds the request, anew for every attempt.
        read: Makes the result of a successful reply and the moment before its request was sent.
        clock: Where time comes from.
        patience: Seconds after which no further attempt begins.

    Raises:
        ServerUnavailableError: The server certainly acted on none of the attempts.
        ReplyLostError: The server may have acted on one of them.
        OAuthError: What `judge` or `read` make of a reply that is final.
    """
    retries = Retries(clock.now, patience)
    while True:
        sent_at = clock.now()
        current = attempt()
        try:
            reply = await _deliver(current, operation)
            judge(reply, operation, secrets=current.secrets, now=clock.now())
            return read(reply, sent_at)
        except TransientOAuthError as failure:
            pause = retries.pause_after(failure)
            if pause is None:
                raise retries.verdict(failure) from None
            # What ends the call in the end may say nothing of what it began with.
            _log.warning("The %s is tried again in %.1f s. %s", operation.name, pause, failure)
        except OwnershipUnknownError as unknown:
            # After a lost reply it is not sent later: to the server that would be theft.
            raise retries.verdict(unknown) from None
        await clock.sleep(pause)


async def _deliver(attempt: Attempt, operation: Operation) -> Reply:
    failure: OAuthError
    try:
        return await send(attempt.request, within=attempt.within, system="oauth-server")
    except _NEVER_SENT as error:
        failure = operation.unavailable(f"{type(error).__name__}: {quotable(str(error))}")
    except httpx.TransportError as error:
        # Its text stays out: a protocol error may quote the header that carries our secret.
        failure = operation.lost(type(error).__name__)
    # Raised out here, so that nothing chains to httpx's error, which holds the whole request.
    raise failure
