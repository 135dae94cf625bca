"""How a request leaves and how much of a reply is believed, the same for every outside system."""

import asyncio
import ipaddress
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx

MAX_REPLY_BYTES = 1024 * 1024
"""No reply of an OAuth server or Orders API comes near this; a bigger one is a mistake or an attack."""

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()


class ReplyTooLargeError(httpx.TransportError):
    """The reply exceeded MAX_REPLY_BYTES and was dropped unread."""


class NotJsonError(ValueError):
    """The reply's body is not a JSON object."""


@dataclass(frozen=True)
class Reply:
    """One complete HTTP reply, its body read to the end."""

    status: int
    headers: httpx.Headers
    body: bytes

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object; raises NotJsonError for anything else."""
        try:
            value = json.loads(self.body)
        except ValueError:
            # "from None": a decoding error quotes the body, and the body may hold a token.
            raise NotJsonError("the reply is not JSON") from None
        if not isinstance(value, dict):
            raise NotJsonError("the reply is JSON, but not an object")
        return value


def shared_client() -> httpx.AsyncClient:
    """The running event loop's one connection pool, shared by every run that the loop executes.

    Redirects are never followed: a 307 would post a secret again to somewhere else.
    """
    loop = asyncio.get_running_loop()
    client = _clients.get(loop)
    if client is None or client.is_closed:
        client = httpx.AsyncClient(follow_redirects=False)
        _clients[loop] = client
    return client


async def send(request: httpx.Request) -> Reply:
    """Send the request and read the whole reply; raises httpx.TransportError where there is none."""
    response = await shared_client().send(request, stream=True)
    try:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_REPLY_BYTES:
                raise ReplyTooLargeError(f"the reply is larger than {MAX_REPLY_BYTES} bytes")
    finally:
        await response.aclose()
    return Reply(response.status_code, response.headers, bytes(body))


def retry_after(headers: httpx.Headers, now: datetime) -> float | None:
    """Seconds to wait as the Retry-After header says (RFC 9110 10.2.3), in either of its forms."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def is_safe_url(url: str) -> bool:
    """Whether a token may travel to this URL: https, or http that stays on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    return parts.scheme == "http" and _is_loopback(parts.hostname or "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
