"""A relay on the wire that forwards every byte, except where a trap is laid.

It stands between a worker and what the worker talks to. It knows no more of HTTP than where a
request begins, and holds nothing back: what it does not spoil arrives as it was sent.
"""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

REQUEST = re.compile(rb"^(?:GET|POST|PUT|PATCH|DELETE) \S+ HTTP/1\.1\r\n")
LENGTH = re.compile(rb"^content-length: *(\d+)\r$", re.IGNORECASE | re.MULTILINE)
UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n"
    b"Content-Type: application/json\r\nConnection: close\r\n\r\n{}"
)

Effect = Literal["act_before", "act_after", "unavailable", "reset_before", "reset_after", "slow"]


@dataclass
class Trap:
    """What happens to the requests numbered `first` to `last` of those that match.

    "act_before" calls `act` before the request is forwarded, "act_after" when it has been answered,
    before the answer is passed on; with `cut`, it then never is. `act` is told the port that the
    request came from. Others play a fault and go on.
    """

    matches: re.Pattern[bytes]
    effect: Effect
    first: int = 1
    last: int = 1
    seconds: float = 0.0
    act: Callable[[int], None] = lambda _: None
    cut: bool = True
    seen: int = field(default=0, init=False)

    def is_sprung_by(self, request: bytes) -> bool:
        """Whether the request that begins with these bytes is one of them."""
        if not self.matches.match(request):
            return False
        self.seen += 1
        return self.first <= self.seen <= self.last


@dataclass
class Relay:
    """Forwards connections to a port of this machine, which may change."""

    target_port: int
    port: int = 0
    traps: list[Trap] = field(default_factory=list)
    away: bool = False
    """While true nobody gets through: connections are reset."""
    keeps_out: Callable[[int], bool] = lambda _: False
    """Whether who connects from this port does not get through though others do."""

    async def listen(self) -> asyncio.Server:
        """Take connections, from when the server is told to serve."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _connected(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            client_port = int(back.get_extra_info("peername")[1])
            if not self.away and not self.keeps_out(client_port):
                server, forth = await asyncio.open_connection("127.0.0.1", self.target_port)
                connection = _Connection(self, client, back, server, forth)
                await connection.forward()
        back.transport.abort()


class _Connection:
    """One connection on its way through."""

    def __init__(
        self,
        relay: Relay,
        client: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        forth: asyncio.StreamWriter,
    ) -> None:
        self._relay = relay
        self._client, self._back, self._server, self._forth = client, back, server, forth
        self._client_port = int(back.get_extra_info("peername")[1])
        self._on_answer: Trap | None = None

    async def forward(self) -> None:
        """Forward both ways until either side hangs up or a trap cuts the line."""
        ways = [asyncio.create_task(self._requests()), asyncio.create_task(self._answers())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._forth.transport.abort()

    async def _requests(self) -> None:
        while chunk := await self._client.read(65536):
            if self._relay.away:
                return
            if REQUEST.match(chunk) and not await self._passes(chunk):
                return
            self._forth.write(chunk)
            await self._forth.drain()

    async def _passes(self, request: bytes) -> bool:
        for trap in [it for it in self._relay.traps if it.is_sprung_by(request)]:
            match trap.effect:
                case "act_before":
                    trap.act(self._client_port)
                    if trap.cut:
                        return False
                case "reset_before":
                    return False
                case "unavailable":
                    await self._refuse(request)
                    return False
                case "slow":
                    await asyncio.sleep(trap.seconds)
                case "act_after" | "reset_after":
                    self._on_answer = trap
        return True

    async def _refuse(self, request: bytes) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        length = LENGTH.search(head + b"\r")
        if length and (left := int(length[1]) - len(body)) > 0:
            await self._client.readexactly(left)
        self._back.write(UNAVAILABLE)
        await self._back.drain()
        self._back.close()
        await self._back.wait_closed()

    async def _answers(self) -> None:
        while chunk := await self._server.read(65536):
            if trap := self._on_answer:
                self._on_answer = None
                trap.act(self._client_port)
                if trap.cut:
                    return
            if self._relay.away:
                return
            self._back.write(chunk)
            await self._back.drain()


@contextmanager
def relays(*to: Relay) -> Iterator[None]:
    """Have these relays work, in a thread of their own, for as long as the block lasts."""
    running: Future[asyncio.Task[None]] = Future()

    async def serve() -> None:
        servers = [await relay.listen() for relay in to]
        task = asyncio.current_task()
        assert task
        running.set_result(task)
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*(server.serve_forever() for server in servers))

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    task = running.result()
    try:
        yield
    finally:
        task.get_loop().call_soon_threadsafe(task.cancel)
        thread.join()
