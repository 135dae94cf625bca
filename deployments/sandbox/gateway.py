"""What every request passes on its way in and out: faults are played and events noted here."""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from deployments.sandbox.faults import INSTEAD_OF_WORK, FaultPlan, echoing, refusal, spoil
from deployments.sandbox.ledger import Asker, Ledger
from deployments.sandbox.overlaps import Span, process_of
from deployments.sandbox.replies import RefusedError, Reply
from deployments.sandbox.shapes import Endpoint, Fault

Work = Callable[[], Reply]
"""Does what the request asks, all at once: nothing else runs in between."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, whose it is, what it works on, and the fault that it will meet."""

    request: Request
    endpoint: Endpoint
    tenant: str | None
    batch: str | None
    work: Hashable | None
    fault: Fault | None

    @property
    def process(self) -> str | None:
        """Who asks, if the request says so."""
        return process_of(self.request.headers.get("user-agent"))


class Gateway:
    """Stands between the network and the two servers."""

    def __init__(self, ledger: Ledger, faults: FaultPlan) -> None:
        self._ledger = ledger
        self._faults = faults

    def receive(
        self,
        request: Request,
        endpoint: Endpoint,
        tenant: str | None,
        batch: str | None = None,
        work: Hashable | None = None,
    ) -> Call:
        """Takes a request in, together with the fault that waits for it."""
        return Call(request, endpoint, tenant, batch, work, self._faults.take(endpoint, tenant))

    async def answer(self, call: Call, work: Work) -> Response:
        """Does the work, unless a fault stands in its place, and answers as the fault lets it."""
        operation = None if call.endpoint == "token.refresh" else call.endpoint
        request = self._ledger.overlaps.request(call.work, call.process, operation=operation)
        with request as span:
            return await self._answer(call, work, span)

    async def _answer(self, call: Call, work: Work, span: Span | None) -> Response:
        fault = call.fault
        if fault is None:
            return self._send(call, _outcome(work))
        if fault.kind == "reset_before":
            return await self._drop(call)
        if fault.kind == "echo":
            fault = await echoing(fault, call.request)
        if fault.kind in INSTEAD_OF_WORK:
            return self._send(call, refusal(fault))
        reply = _outcome(work)
        if fault.kind == "reset_after":
            return await self._drop(call)
        if fault.kind == "cut_body":
            return self._cut(call, reply)
        if fault.kind == "slow":
            await _take(fault.seconds, call.request, span)
        return self._send(call, spoil(reply, fault))

    def _send(self, call: Call, reply: Reply) -> Response:
        error = reply.body.get("error")
        self._note(call, reply.status, error if isinstance(error, str) else None)
        return reply.response()

    async def _drop(self, call: Call) -> Response:
        self._note(call, None)
        await call.request.state.connection.reset()
        return Response(status_code=500)  # goes nowhere: the connection is gone

    def _cut(self, call: Call, reply: Reply) -> Response:
        self._note(call, None)
        content = reply.content()

        async def half() -> AsyncIterator[bytes]:
            yield content[: len(content) // 2]
            await call.request.state.connection.hang_up()

        headers = {"Content-Length": str(len(content))}
        return StreamingResponse(half(), reply.status, headers, media_type="application/json")

    def _note(self, call: Call, status: int | None, error: str | None = None) -> None:
        fault = call.fault.kind if call.fault else None
        asker = Asker(call.tenant, call.batch, call.process)
        self._ledger.note(call.endpoint, asker, status=status, error=error, fault=fault)


def _outcome(work: Work) -> Reply:
    try:
        return work()
    except RefusedError as refused:
        return refused.reply


async def _take(seconds: float, request: Request, span: Span | None) -> None:
    """Keep the client waiting; the server works on where the client hangs up, as servers do."""
    watching = asyncio.create_task(_end_with_client(request, span)) if span else None
    try:
        await asyncio.sleep(seconds)
    finally:
        if watching:
            watching.cancel()


async def _end_with_client(request: Request, span: Span) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass  # the body has been read: what is left of it is empty
    span.end()
