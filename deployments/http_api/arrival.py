"""A request arrives within bounds of size and time, its answer is taken, or its connection ends.

uvicorn bounds none of it: it reads headers for as long as they come, a client that sends a byte a
minute keeps its connection, and one that reads nothing keeps the file that it is sent as well. What
the body may weigh is the business of `body.py`.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 32 * 1024
"""Of a request's target and headers: an access token is a few kilobytes."""

TARGET_BYTES = 8 * 1024
"""Of the path and query: RFC 9110 4.1 wants 8,000 taken. The two longest ids have under 5,000."""

ARRIVAL_SECONDS = 10.0
"""From a connection's beginning, or its last answer, until a request is there, body and all."""

SENDING_SECONDS = 30.0
"""In which a client takes LEAST_TAKEN bytes of its answer, where so many wait to be sent."""

LEAST_TAKEN = 16 * 1024

CONNECTIONS = 400
"""At once; who comes then is answered with 503.

A process may usually have 1,024 files open, and a connection may take two: itself, and what it is
sent.
"""

MOST_CONNECTIONS = CONNECTIONS + 100
"""At once, those included that are answered with 503; who comes then is not answered."""


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 that ends the connection of who does not come to an end."""

    _in_head = True
    _head_bytes = 0
    _due: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, so long."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        _cancel(self._due)
        _cancel(self._stalled)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More waits to be sent than is kept ready: the client has to take some, in time."""
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        """The client has taken most of it."""
        super().resume_writing()
        _cancel(self._stalled)

    def data_received(self, data: bytes) -> None:
        """Refuse, with 400, a head that is too large already and goes on."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too large.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers, which nothing bounds and nobody needs, end the connection."""
        if not self._in_head:
            self.transport.abort()
            raise ValueError("Trailers are not taken.")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuse, with 400, a head that is too large and came at once."""
        self._in_head = False
        if len(self.url) > TARGET_BYTES:  # a query takes time before anybody's token is looked at
            raise ValueError("The target is too long.")
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            raise ValueError("The headers are too large.")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there; its answer may take its time."""
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0
        _cancel(self._due)

    def on_response_complete(self) -> None:
        """Wait for the next request, unless that is there, or for the answer to be taken."""
        super().on_response_complete()
        if self.cycle.response_complete or self.cycle.more_body or self.transport.is_closing():
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """Wait for it to be taken."""
        super().send_400_response(msg)
        self._wait()

    def _wait(self) -> None:
        _cancel(self._due)
        self._due = self.loop.call_later(ARRIVAL_SECONDS, self._end)

    def _end(self) -> None:
        """End the connection, unless a long answer is being taken: that has its own bound."""
        if self.flow.write_paused:
            self._wait()
        else:
            self.transport.abort()

    def _watch_sending(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(SENDING_SECONDS, self._go_on, unsent)

    def _go_on(self, unsent: int) -> None:
        if self.transport.get_write_buffer_size() > unsent - LEAST_TAKEN:
            self.transport.abort()
        else:
            self._watch_sending()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
