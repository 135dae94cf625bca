"""What a reply may cost us, on real connections: bytes, chunks, headers, depth, time."""

import asyncio
import gzip
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from blocks import http
from blocks.http import (
    MAX_REPLY_BYTES,
    NotJsonError,
    Reply,
    ReplyTooLargeError,
    send,
    shared_client,
)

Writer = asyncio.StreamWriter


@asynccontextmanager
async def answering(answer: Callable[[Writer], Awaitable[None]]):
    """The URL of a server that answers every request so."""

    async def handle(reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()


def whole(body: bytes, *headers: str) -> Callable[[Writer], Awaitable[None]]:
    async def answer(writer: Writer) -> None:
        head = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", "Connection: close", *headers]
        writer.write("\r\n".join([*head, "", ""]).encode() + body)

    return answer


async def get(url, **options) -> Reply:
    return await send(shared_client().build_request("GET", url), **options)


def gzipped(size: int, layers: int) -> bytes:
    body = b"a" * size
    for _ in range(layers):
        body = gzip.compress(body)
    return body


async def test_a_reply_that_would_unpack_to_gigabytes_is_dropped_at_once():
    bomb = whole(gzipped(300_000_000, 2), "Content-Encoding: gzip, gzip")
    async with answering(bomb) as url:
        began = time.process_time()
        with pytest.raises(httpx.TransportError):
            async with asyncio.timeout(2):
                await get(url)
        assert time.process_time() - began < 0.2


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "gzip,identity", "x"])
async def test_a_coding_that_was_not_asked_for_is_refused(coding):
    async with answering(whole(b"{}", f"Content-Encoding: {coding}")) as url:
        with pytest.raises(httpx.RemoteProtocolError, match="not asked for"):
            await get(url)


async def test_a_gateway_that_compresses_all_the_same_is_understood():
    for coding in ("gzip", "X-GZIP"):
        packed = whole(gzip.compress(b'{"a": 1}'), f"Content-Encoding: {coding}")
        async with answering(packed) as url:
            assert (await get(url)).json_object() == {"a": 1}


async def test_a_compressed_reply_is_bounded_by_what_it_unpacks_to():
    async with answering(whole(gzipped(MAX_REPLY_BYTES, 1), "Content-Encoding: gzip")) as url:
        assert len((await get(url)).body) == MAX_REPLY_BYTES
    async with answering(whole(gzipped(MAX_REPLY_BYTES + 1, 1), "Content-Encoding: gzip")) as url:
        with pytest.raises(ReplyTooLargeError):
            await get(url)


@pytest.mark.parametrize(
    "body", [b"nonsense", gzip.compress(b'{"a": 1}')[:-4]], ids=["nonsense", "cut off"]
)
async def test_a_compressed_reply_that_cannot_be_unpacked_is_no_reply(body):
    async with answering(whole(body, "Content-Encoding: gzip")) as url:
        with pytest.raises(httpx.RemoteProtocolError, match="decoded"):
            await get(url)


async def test_a_reply_in_chunks_of_a_byte_is_dropped_before_it_costs_the_others_much():
    async def drip(writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"1\r\na\r\n" * 500_000 + b"0\r\n\r\n")

    async with answering(drip) as url:
        with pytest.raises(ReplyTooLargeError):
            await get(url)


async def test_a_reply_of_many_headers_or_one_huge_is_no_reply():
    for headers in ([f"X-{n}: {'a' * 50}" for n in range(10_000)], [f"X: {'a' * 1_000_000}"]):
        async with answering(whole(b"{}", *headers)) as url:
            with pytest.raises(httpx.TransportError):
                await get(url)


async def test_a_reply_that_trickles_is_ended_by_the_clock_while_others_go_on():
    async def trickle(writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(100):
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with answering(trickle) as url:
        with pytest.raises(httpx.ReadTimeout):
            await get(url, within=0.2)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"a":' * 70 + b"1" + b"}" * 70,
        b'{"a": ' + b"9" * 10_000 + b"}",
    ],
    ids=["900 deep", "70 deep", "10000 digits"],
)
def test_what_is_too_deep_or_too_big_to_be_shown_again_is_no_json(body):
    with pytest.raises(NotJsonError) as caught:
        Reply(200, httpx.Headers(), body).json_object()
    assert caught.value.__context__ is None


def test_what_one_reader_does_to_a_reply_no_other_sees():
    reply = Reply(200, httpx.Headers(), json.dumps({"a": 1}).encode())
    reply.json_object().clear()
    assert reply.json_object() == {"a": 1}


async def test_a_system_that_hangs_on_all_its_connections_leaves_the_other_its_own(monkeypatch):
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(http, "_clients", {})

    async def hang(_writer: Writer) -> None:
        await asyncio.sleep(0.5)

    async with answering(hang) as hanging, answering(whole(b"{}")) as healthy:
        stuck = asyncio.create_task(get(hanging))
        await asyncio.sleep(0.1)
        timeout = httpx.Timeout(5, pool=0.1)
        request = shared_client().build_request("GET", healthy, timeout=timeout)
        assert (await send(request, system="oauth-server")).status == 200
        with pytest.raises(httpx.PoolTimeout):
            await send(request)
        with pytest.raises(httpx.TransportError):
            await stuck
    for client in http._clients[asyncio.get_running_loop()].values():  # noqa: SLF001 - made here
        await client.aclose()
