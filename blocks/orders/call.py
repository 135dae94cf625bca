"""One operation on its way to the Orders API: every attempt of it, up to a definite answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import httpx
from prefect.logging import get_logger
from pydantic import SecretStr

from blocks.http import ANSWER_WITHIN, Reply, ReplyTooLargeError, send, shared_client
from blocks.orders.errors import (
    OrdersError,
    OrdersReplyTooLargeError,
    OrdersUnauthorizedError,
    OrdersUnavailableError,
)
from blocks.orders.pace import Pace
from blocks.orders.progress import Progress
from blocks.orders.replies import judge
from blocks.orders.settings import OrdersSettings
from blocks.places import lent_while_waiting

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

_log = get_logger(__name__)


class TokenSource(Protocol):
    """Where an operation gets its access token from, before every single attempt."""

    async def __call__(self, *, rejected: SecretStr | None = None) -> SecretStr:
        """An access token that is valid now, and another one than `rejected`."""


@dataclass
class Call:
    """One operation: where it goes, what it carries, and how far it has come."""

    settings: OrdersSettings
    pace: Pace
    progress: Progress
    url: httpx.URL
    body: Mapping[str, str]
    key_header: str
    access_token: TokenSource
    refreshed: bool = False

    @lent_while_waiting()
    async def complete(self) -> Reply:
        """Attempt it until there is a definite answer; the reply that shows it done."""
        progress = self.progress
        while True:
            try:
                reply = await self._exchange()
                judge(reply, progress, self.pace.now())
            except OrdersUnavailableError as error:
                if progress.attempt == progress.max_attempts:
                    raise
                delay = self.pace.delay(progress.attempt, error.retry_after)
                _log.warning("%s %s; again in %.1f s.", error.operation, error.happened, delay)
            else:
                return reply
            progress.attempt += 1
            await self.pace.sleep(delay)

    async def _exchange(self) -> Reply:
        token = await self.access_token()  # the one before may have expired during the wait
        reply = await self._send(token)
        if reply.status == httpx.codes.UNAUTHORIZED and not self.refreshed:
            # With or without WWW-Authenticate (RFC 6750 3.1), but once: a server that refuses
            # a fresh token will refuse the next one too.
            self.refreshed = True
            reply = await self._send(await self.access_token(rejected=token))
        return reply

    async def _send(self, token: SecretStr) -> Reply:
        request = self._request(token)
        failure: OrdersError
        try:
            # One connect_timeout is for a free place in the pool, one for the connection.
            within = 2 * self.settings.connect_timeout + self.settings.read_timeout
            return await send(request, within=within)
        except ReplyTooLargeError:
            happened = "was answered with over 1 MiB"
            failure = OrdersReplyTooLargeError(self.progress.operation, happened)
        except httpx.TransportError as error:
            self.progress.maybe_done |= not isinstance(error, _NEVER_SENT)
            reason = self.progress.quotable(f"{type(error).__name__}: {error}".removesuffix(": "))
            failure = self.progress.unavailable(f"got no answer ({reason})")
        # Raised out here it has no httpx exception in its context, which would hold the token.
        raise failure

    def _request(self, token: SecretStr) -> httpx.Request:
        self.progress.tokens.append(token)
        if not re.fullmatch("[!-~]+", token.get_secret_value()):
            happened = "was given an access token that no header can carry"
            raise OrdersUnauthorizedError(self.progress.operation, happened)
        connect, read = self.settings.connect_timeout, self.settings.read_timeout
        return shared_client().build_request(
            "POST",
            self.url,
            json=self.body,
            headers={
                "Accept": "application/json",
                "Authorization": f"Bearer {token.get_secret_value()}",
                "Idempotency-Key": self.key_header,
            },
            timeout=httpx.Timeout(None, connect=connect, pool=connect),
            extensions={ANSWER_WITHIN: read},
        )
