"""Clients that never come to an end, on real sockets."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from typing import NoReturn

import httpx
import pytest
from fastapi import FastAPI

from blocks.systems import NotSavedError
from deployments import serve
from deployments.http_api import arrival
from deployments.http_api.app import create_app
from deployments.stack import free_port

SECONDS = 1.0
HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
BUNDLE = HEAD.replace(b"healthz", b"static-offline-docs/swagger-ui-bundle.js") + b"\r\n"
POST = b"POST /api/v1/journeys/daily-orders-batch-close/start HTTP/1.1\r\nHost: 127.0.0.1\r\n"
BODY = POST + b"Authorization: Bearer a\r\nContent-Type: application/json\r\n"


async def not_saved() -> NoReturn:
    await asyncio.sleep(0.3)
    raise NotSavedError("Nothing is saved.")


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[int]:
    server = serve.server_for(app, "127.0.0.1", free_port())
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  (uvicorn has nothing to wait for)
        await asyncio.sleep(0.01)
    yield server.config.port
    server.should_exit = True
    await task


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(arrival, "ARRIVAL_SECONDS", SECONDS)
    async with serving(create_app(not_saved)) as port:
        yield port


async def sent(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """What is answered until the server ends the connection, at the latest after 5 seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        reading = asyncio.create_task(reader.read())
        with suppress(ConnectionError):
            for part in parts:
                if reading.done():
                    break
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause)
        async with asyncio.timeout(5):
            try:
                return await reading
            except ConnectionError:
                return b""


async def is_served(port: int) -> bool:
    async with httpx.AsyncClient(trust_env=False, timeout=1) as client:
        return (await client.get(f"http://127.0.0.1:{port}/healthz")).is_success


def trickled(begin: bytes, endless: bytes) -> Iterator[bytes]:
    yield begin
    while True:
        yield endless


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (HEAD,),
        trickled(HEAD, b"X-Slow: 1\r\n"),
        trickled(HEAD + b"X-Slow: ", b"1"),
        trickled(BODY + b"Content-Length: 60000\r\n\r\n", b" "),
        trickled(BODY + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        trickled(HEAD + b"\r\n", b"X"),
    ],
    ids=["nothing", "half a head", "headers", "a header", "a body", "chunks", "a second request"],
)
async def test_a_client_that_sends_no_whole_request_in_time_is_cut_off_and_others_are_served(
    port: int, parts: tuple[bytes, ...]
) -> None:
    began = asyncio.get_running_loop().time()
    slow = [asyncio.create_task(sent(port, *parts_of(parts), pause=0.1)) for _ in range(5)]
    await asyncio.sleep(0.2)
    assert await is_served(port)
    await asyncio.gather(*slow)
    assert asyncio.get_running_loop().time() - began < 3 * SECONDS


def parts_of(parts: object) -> list[bytes]:
    """As many as last for five seconds."""
    found = []
    for part in parts:  # type: ignore[attr-defined]
        found.append(part)
        if len(found) == 50:
            break
    return found


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"X-Large: " + b"x" * 1_000_000 + b"\r\n\r\n",
        HEAD + b"X-Many: 1\r\n" * 100_000 + b"\r\n",
        HEAD + b"X-Large: " + b"x" * 40_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        HEAD + b"X-Endless: " + b"x" * 1_000_000,
    ],
    ids=["a large header", "many", "at once", "a long path", "without an end"],
)
async def test_a_head_that_is_too_large_is_refused(port: int, head: bytes) -> None:
    answer = await sent(port, head)
    assert answer.startswith(b"HTTP/1.1 400") or not answer  # the kernel may drop it with the rest
    assert await is_served(port)


async def test_a_head_that_is_too_large_is_told_so(port: int) -> None:
    assert (await sent(port, HEAD + b"X-Large: " + b"x" * 40_000 + b"\r\n\r\n")).startswith(
        b"HTTP/1.1 400"
    )


async def test_trailers_end_the_connection_before_they_take_any_memory(port: int) -> None:
    began = asyncio.get_running_loop().time()
    trailers = [b"X-Trailer: 1\r\n" * 10_000 for _ in range(50)]
    await sent(port, BODY + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", *trailers)
    assert asyncio.get_running_loop().time() - began < SECONDS
    assert await is_served(port)


async def test_a_long_query_is_refused_before_it_takes_any_time(port: int) -> None:
    begin, end = b"GET /healthz?", b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    assert (await sent(port, begin + b"a=b&" * 5000 + end)).startswith(b"HTTP/1.1 400")
    assert (await sent(port, begin + b"a=b&" * 2000 + end)).startswith(b"HTTP/1.1 200")


async def test_a_request_that_is_there_may_take_longer_than_it_may_take_to_arrive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrival, "ARRIVAL_SECONDS", 0.2)
    app = create_app(not_saved)

    @app.get("/slow")
    async def slow() -> dict[str, bool]:
        await asyncio.sleep(0.6)
        return {"ok": True}

    pipelined = HEAD.replace(b"healthz", b"slow") + b"\r\n"
    last = pipelined.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with serving(app) as port:
        answer = await sent(port, pipelined + last)
    assert answer.count(b'{"ok":true}') == 2


async def read_after(pause: float, port: int, request: bytes) -> int:
    """How many bytes come, of an answer of which nothing is read for so long."""
    loop, got = asyncio.get_running_loop(), 0
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, request)
        await asyncio.sleep(pause)
        with suppress(ConnectionError):
            while part := await asyncio.wait_for(loop.sock_recv(client, 65536), 5):
                got += len(part)
    return got


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes little off the server's hands, as where many are connected."""
    made = arrival.BoundedProtocol.connection_made

    def connection_made(protocol: arrival.BoundedProtocol, transport: asyncio.Transport) -> None:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(protocol, transport)

    monkeypatch.setattr(arrival.BoundedProtocol, "connection_made", connection_made)


@pytest.mark.usefixtures("small_buffers")
async def test_a_client_that_does_not_read_its_answer_is_cut_off(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "SENDING_SECONDS", 0.5)
    assert await read_after(2, port, BUNDLE) < 500_000
    assert await is_served(port)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
async def test_a_client_that_does_not_read_the_end_of_its_answer_is_cut_off(
    connection: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "ARRIVAL_SECONDS", 0.5)
    app = create_app(not_saved)
    app.add_api_route("/page", lambda: "x" * 60_000)
    async with serving(app) as port:
        request = HEAD.replace(b"healthz", b"page") + b"Connection: " + connection + b"\r\n\r\n"
        assert await read_after(2, port, request) < 60_000


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
async def test_a_client_that_reads_slowly_gets_its_whole_answer(
    connection: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "ARRIVAL_SECONDS", 0.5)
    monkeypatch.setattr(arrival, "SENDING_SECONDS", 0.5)
    app = create_app(not_saved)
    app.add_api_route("/page", lambda: "x" * 2_000_000)
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        with closing(writer):
            page = HEAD.replace(b"healthz", b"page")
            writer.write(page + b"Connection: " + connection + b"\r\n\r\n")
            got = 0
            while got < 2_000_000 and (part := await reader.read(50_000)):
                got += len(part)
                await asyncio.sleep(len(part) / 1_000_000)
    assert got >= 2_000_000


async def test_connections_that_no_file_is_left_for_are_ended_at_once(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "MOST_CONNECTIONS", 5)
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
    began = asyncio.get_running_loop().time()
    assert await sent(port) == b""
    assert asyncio.get_running_loop().time() - began < SECONDS / 2
    for _, writer in idle:
        writer.close()
    await asyncio.sleep(0.1)
    assert await is_served(port)


async def test_the_access_log_names_the_path_and_nothing_of_the_query(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    access = logging.getLogger("uvicorn.access")
    access.addHandler(caplog.handler)
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(f"http://127.0.0.1:{port}/healthz?access_token=s3cret")
    finally:
        access.removeHandler(caplog.handler)
    told = "\n".join(record.getMessage() for record in caplog.records if record.name == access.name)
    assert '"GET /healthz HTTP/1.1" 200' in told
    assert "s3cret" not in told
