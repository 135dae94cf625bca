"""A request arrives within bounds of size and time, or its connection ends.

uvicorn bounds neither: it reads headers for as long as they come, and a client that sends a byte a
minute keeps its connection. What the body may weigh is the business of `body.py`.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 32 * 1024
"""Of a request's target and headers: an access token is a few kilobytes."""

ARRIVAL_SECONDS = 10.0
"""From a connection's beginning, or its last answer, until a request is there, body and all."""

CONNECTIONS = 800
"""At once; who comes then is answered with 503. A process may usually have 1,024 files open."""


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 that ends the connection of who does not come to an end."""

    _in_head = True
    _head_bytes = 0
    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, so long."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Refuse, with 400, a head that is too large already and goes on."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too large.")

    def on_headers_complete(self) -> None:
        """Refuse, with 400, a head that is too large and came at once."""
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            raise ValueError("The headers are too large.")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there; its answer may take its time."""
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0
        self._wait_no_more()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless that is there already."""
        super().on_response_complete()
        if self.cycle.response_complete or self.cycle.more_body:
            self._wait()

    def _wait(self) -> None:
        self._wait_no_more()
        if not self.transport.is_closing():
            self._due = self.loop.call_later(ARRIVAL_SECONDS, self.transport.abort)

    def _wait_no_more(self) -> None:
        if self._due is not None:
            self._due.cancel()
