"""How a request leaves and how much of a reply is believed, the same for every outside system."""

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

import httpx

from blocks import ownership
from blocks.lease import OwnershipUnknownError
from blocks.reply import (
    MAX_REPLY_BYTES,
    NotJsonError,
    Reply,
    ReplyTooLargeError,
    read_whole,
)

__all__ = [
    "MAX_REPLY_BYTES",
    "NotJsonError",
    "Reply",
    "ReplyTooLargeError",
    "is_loopback",
    "is_safe_url",
    "retry_after",
    "send",
    "shared_client",
]

MAX_REPLY_SECONDS = 60.0
"""The longest a whole reply may take: httpx's own timeouts start anew with every byte received."""

ANSWER_WITHIN = "answer_within"
"""In a request's extensions: seconds for the whole reply, from when the request has been sent.

Not httpx's own limit, which gives up at once where the process stood still, though the reply is
there.
"""

TICK_SECONDS = 0.5
"""What a pause of this process takes from a time limit, however long it was."""

ASKED_WITHIN = 3.0
"""Seconds in which Prefect has to tell that work goes on: a repeated refresh may not come late."""

USER_AGENT = f"daily-orders-batch-close/{version('daily-orders-batch-close')}"

_DIRECT: dict[str, httpx.AsyncBaseTransport | None] = {
    "http://": None,
    "all://localhost": None,
    "all://127.0.0.1": None,
    "all://[::1]": None,
}
"""Where no proxy of the environment is asked: it would read a plain-HTTP secret, and has another
loopback than ours. Other https goes through it, as a tunnel that it cannot look into."""

MAX_CONNECTIONS = 100
"""At once, of one event loop to one outside system."""

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, httpx.AsyncClient]]
_clients = WeakKeyDictionary()


def shared_client(system: str = "") -> httpx.AsyncClient:
    """The running event loop's one connection pool to a system, shared by all that it executes.

    Each outside system has its own: an Orders API that hangs on every connection that there may be
    leaves the OAuth server's free. Build requests with any one's `build_request`: that is where
    timeouts and default headers come from. Redirects are never followed: a 307 would post a secret
    again to somewhere else.
    """
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    client = clients.get(system)
    if client is None or client.is_closed:
        client = clients[system] = httpx.AsyncClient(
            follow_redirects=False,
            mounts=_DIRECT,
            # One tenant's session would go along with the next one's token.
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            headers={"Accept-Encoding": "identity"},
            # Many servers hang up on idle connections after 5 s, httpx's own limit: a request
            # that races the hang-up is lost, and nobody can tell whether it arrived.
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=2),
        )
    return client


async def send(
    request: httpx.Request, *, within: float = MAX_REPLY_SECONDS, system: str = ""
) -> Reply:
    """Send the request to an outside system and read its whole reply, in at most `within` seconds.

    Once it has been sent, the seconds of its extension ANSWER_WITHIN are left, if it has that.

    Only seconds count in which this process could act: where it stood still (SIGSTOP, a suspended
    machine), what has arrived meanwhile is read first. It may be a rotated token.

    Nothing is sent for work that is not this process's own any more: see `blocks.ownership`.

    Raises:
        OwnershipLostError: The work is somebody else's, or was cancelled, suspended or deleted.
        OwnershipUnknownError: Prefect cannot be asked whether it is.
        httpx.TransportError: There is no complete reply. Only ConnectError, ConnectTimeout and
            PoolTimeout tell that the request never left. Never chain it into an error that is
            kept or logged: it holds the request, and with it the secrets of that request.
    """
    await _require_ownership()
    request.headers["User-Agent"] = f"{USER_AGENT} (process {ownership.process_id()})"
    limit = _Limit(within)
    answer_within = request.extensions.get(ANSWER_WITHIN)

    async def on_the_wire(event: str, about: Mapping[str, Any]) -> None:
        await ownership.on_the_wire(event, about)
        if answer_within and event.endswith("send_request_body.complete"):
            limit.left = answer_within

    request.extensions = {**request.extensions, "trace": on_the_wire}
    try:
        async with _timeout_while_awake(limit):
            return await _send_and_read(request, shared_client(system))
    except TimeoutError:
        pass
    except httpx.DecodingError:  # of a transport that reads the reply by itself
        raise httpx.RemoteProtocolError("the reply cannot be decoded", request=request) from None
    seconds = answer_within or within
    raise httpx.ReadTimeout(f"no complete reply within {seconds:g} seconds", request=request)


@dataclass
class _Limit:
    """Seconds that are left, of those in which this process can act."""

    left: float


@asynccontextmanager
async def _timeout_while_awake(limit: _Limit) -> AsyncIterator[None]:
    """Raise TimeoutError once no seconds are left; a pause of the process counts as one tick."""

    async def expire(ending: asyncio.Timeout) -> None:
        while limit.left > 0:
            tick = min(limit.left, TICK_SECONDS)
            await asyncio.sleep(tick)
            limit.left -= tick
        ending.reschedule(asyncio.get_running_loop().time())

    async with asyncio.timeout(None) as ending:
        expiring = asyncio.create_task(expire(ending))
        try:
            yield
        finally:
            expiring.cancel()


async def _require_ownership() -> None:
    try:
        async with asyncio.timeout(ASKED_WITHIN):
            return await ownership.require()
    except TimeoutError:
        pass
    raise OwnershipUnknownError("Prefect does not tell in time whether the work goes on.")


async def _send_and_read(request: httpx.Request, client: httpx.AsyncClient) -> Reply:
    response = await client.send(request, stream=True)
    try:
        return await read_whole(response)
    finally:
        await response.aclose()


def retry_after(headers: httpx.Headers, now: datetime) -> float | None:
    """Seconds to wait as the Retry-After header says (RFC 9110 10.2.3), in either of its forms."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def is_safe_url(url: str) -> bool:
    """Whether a token may travel to this URL: https, or http that stays on this machine."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    if parts.scheme == "https":
        return bool(parts.host)
    return parts.scheme == "http" and is_loopback(parts.host)


def is_loopback(host: str) -> bool:
    """Whether this host, by name or address, is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _brief(record: logging.LogRecord) -> bool:
    """Keep what httpcore logs at DEBUG to its first word.

    The rest are the headers of replies, and servers repeat in them what they were sent.
    """
    record.msg = str(record.msg).partition(" ")[0]
    return True


logging.getLogger("httpcore.http11").addFilter(_brief)
