"""A reply of an outside system, read within bounds: bytes, chunks, the depth of its JSON."""

import json
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx

MAX_REPLY_BYTES = 1024 * 1024
"""No reply of either outside system comes near this; a bigger one is a mistake or an attack."""

MAX_REPLY_CHUNKS = 10_000
"""Chunks of one byte each would cost the event loop a minute, in which it serves nobody else."""

MAX_DEPTH = 64
"""How deep JSON may be nested: what is nearly too deep to be read is too deep to be shown."""


class ReplyTooLargeError(httpx.TransportError):
    """The reply exceeded MAX_REPLY_BYTES or MAX_REPLY_CHUNKS and was dropped unread."""


class NotJsonError(ValueError):
    """The reply's body is not a JSON object."""


@dataclass(frozen=True)
class Reply:
    """One complete HTTP reply, its body read to the end."""

    status: int
    headers: httpx.Headers = field(repr=False)
    body: bytes = field(repr=False)

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object; raises NotJsonError for anything else."""
        if not isinstance(self._json, dict):
            raise NotJsonError("the reply is not a JSON object")
        return dict(self._json)

    @cached_property
    def _json(self) -> object:
        """The body as JSON, parsed once; None where it is none, or too deep."""
        try:
            value: object = json.loads(self.body)
        except (ValueError, RecursionError):
            # Not chained: a decoding error holds the body, and the body may hold a token.
            return None
        return None if _is_too_deep(value) else value


async def read_whole(response: httpx.Response) -> Reply:
    """The reply, its body read to the end; raises httpx.TransportError where it has none for us."""
    body, chunks = bytearray(), 0
    async for chunk in response.aiter_raw():
        body += chunk
        chunks += 1
        if len(body) > MAX_REPLY_BYTES or chunks > MAX_REPLY_CHUNKS:
            raise _too_large()
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    return Reply(response.status_code, response.headers, _decoded(bytes(body), coding))


def _decoded(body: bytes, coding: str) -> bytes:
    """The body without its content coding (RFC 9110 8.4).

    We ask for none. A gateway that compresses all the same is understood, one gzip deep: httpx
    would unpack any number of them, 2 kB to gigabytes, before anybody could count.
    """
    if not body or coding in {"", "identity"}:
        return body
    if coding not in {"gzip", "x-gzip"}:
        raise httpx.RemoteProtocolError("the reply is encoded in a way that was not asked for")
    unpacking = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        unpacked = unpacking.decompress(body, MAX_REPLY_BYTES + 1)
    except zlib.error:
        unpacked = b""
    if len(unpacked) > MAX_REPLY_BYTES:
        raise _too_large()
    if not unpacking.eof:
        raise httpx.RemoteProtocolError("the reply cannot be decoded")
    return unpacked


def _too_large() -> ReplyTooLargeError:
    return ReplyTooLargeError(
        f"the reply is larger than {MAX_REPLY_BYTES} bytes, or in over {MAX_REPLY_CHUNKS} chunks"
    )


def _is_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
    return bool(level)


def _children(value: object) -> list[Any]:
    """What a value of JSON has directly inside it."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
