"""The sandbox on a real socket: in the foreground, or beside a test in a thread."""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from deployments.sandbox.app import create_app
from deployments.sandbox.settings import Clock, SandboxSettings, utc_now

# A client that lost its reply sees a reset, not a polite close: lingering for no time makes
# the kernel send RST.
_LINGER_NOT = struct.pack("ii", 1, 0)

_BACKLOG = 4096  # thousands of runs wake at the same second


class Connection:
    """The client's connection, for the faults that break it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    async def reset(self) -> None:
        """Breaks the connection off: the client reads "connection reset by peer"."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._transport.abort()
        await asyncio.sleep(0)  # lets uvicorn notice, so that it sends nothing more

    async def hang_up(self) -> None:
        """Ends the connection after what has been written: the client reads a body cut short."""
        self._transport.close()
        await asyncio.sleep(0)


class BreakableProtocol(H11Protocol):
    """HTTP/1.1 that lets a request handler reach its connection as `request.state.connection`.

    ASGI has no message for breaking a connection off, so the protocol hands it over.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remembers the connection in the state that each of its requests is given."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "connection": Connection(transport)}


def bound_socket(port: int = 0) -> socket.socket:
    """A listening socket on 127.0.0.1; port 0 takes a free one. Early clients wait in its queue."""
    # The protocol is named because asyncio sets TCP_NODELAY only on sockets that name it; without
    # that every reply after a connection's first waits 40 ms for the client's delayed ACK.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(_BACKLOG)
    return sock


def url_of(sock: socket.socket) -> str:
    """The base URL of a sandbox on this socket: its issuer, and its Orders API's base."""
    host, port = sock.getsockname()
    return f"http://{host}:{port}"


def server(settings: SandboxSettings, clock: Clock = utc_now) -> uvicorn.Server:
    """A uvicorn server of one sandbox, to be run on a bound socket."""
    config = uvicorn.Config(
        create_app(settings, clock),
        http=BreakableProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        backlog=_BACKLOG,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


@contextmanager
def running_sandbox(
    settings: SandboxSettings | None = None, clock: Clock = utc_now
) -> Iterator[str]:
    """Runs a sandbox in a background thread and yields its base URL."""
    uvicorn_server = server(settings or SandboxSettings(), clock)
    sock = bound_socket()
    thread = Thread(target=uvicorn_server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield url_of(sock)
    finally:
        uvicorn_server.should_exit = True
        thread.join()
