"""Faults waiting to be played, and how each kind deforms a reply."""

import json
from collections import deque
from collections.abc import Callable, Mapping
from itertools import repeat
from urllib.parse import parse_qs

from starlette.requests import Request

from deployments.sandbox.replies import Body, Reply
from deployments.sandbox.shapes import Fault, FaultKind

INSTEAD_OF_WORK: frozenset[FaultKind] = frozenset(
    {"status", "echo", "reset_before", "error_in_200", "ok_false", "redirect"}
)
"""A server that says no has not done the work; every other kind spoils the reply afterwards."""

_HUGE = 1_200_000
_TOKENS = ("subject_token", "refresh_token", "token")


class FaultPlan:
    """The queued faults. A tenant's own go first, then those meant for everyone."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str | None], deque[Fault]] = {}

    def queue(self, fault: Fault) -> None:
        """Adds a fault behind those already waiting for the same endpoint and tenant."""
        queue = self._queues.setdefault((fault.endpoint, fault.tenant_id), deque())
        queue.extend(repeat(fault, fault.count))

    def clear(self) -> None:
        """Forgets every fault."""
        self._queues.clear()

    def take(self, endpoint: str, tenant: str | None) -> Fault | None:
        """The fault to play on this request, which uses it up."""
        for key in (endpoint, tenant), (endpoint, None):
            queue = self._queues.get(key)
            if queue:
                return queue.popleft()
        return None


def refusal(fault: Fault) -> Reply:
    """What is answered instead of doing the work."""
    if fault.kind == "redirect":
        return Reply(307, {}, {"Location": fault.location})
    if fault.kind == "ok_false":
        return Reply(200, {"ok": False})
    if fault.kind == "error_in_200":
        return Reply(200, {"error": "temporarily_unavailable"})
    return status_reply(fault)


def status_reply(fault: Fault) -> Reply:
    """The status, body and headers that the fault asks for."""
    body = fault.body
    if isinstance(body, dict):
        return Reply(fault.status, body, fault.headers)
    return Reply(fault.status, {}, fault.headers, raw=(body or "").encode())


async def echoing(fault: Fault, request: Request) -> Fault:
    """The fault with its placeholders filled in from the request."""
    authorization = request.headers.get("authorization", "")
    form = parse_qs((await request.body()).decode(errors="replace"))
    tokens = [form[name][0] for name in _TOKENS if name in form]
    token = tokens[0] if tokens else authorization.partition(" ")[2]
    text = fault.model_dump_json()
    text = text.replace("{token}", _in_json(token))
    text = text.replace("{half}", _in_json(token[: len(token) // 2]))
    text = text.replace("{authorization}", _in_json(authorization))
    return Fault.model_validate_json(text)


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def spoil(reply: Reply, fault: Fault) -> Reply:
    """The reply to work that was done, as the fault makes it look."""
    if fault.kind == "status_after":
        return status_reply(fault)
    if fault.kind == "not_json":
        return Reply(200, {}, raw=b"<html><body>Please log in to the network.</body></html>")
    if fault.kind == "truncated":
        content = reply.content()
        return Reply(reply.status, {}, reply.headers, raw=content[: len(content) // 2])
    change = _CHANGES.get(fault.kind)
    return Reply(reply.status, change(reply.body, fault), reply.headers) if change else reply


def _without(member: str) -> Callable[[Body, Fault], Body]:
    return lambda body, _: {name: value for name, value in body.items() if name != member}


def _wrong_types(body: Body, _: Fault) -> Body:
    return {name: 7 if isinstance(value, str) else "seven" for name, value in body.items()}


def _expires_in_string(body: Body, _: Fault) -> Body:
    return body | {"expires_in": str(body["expires_in"])} if "expires_in" in body else body


def _token_type(body: Body, fault: Fault) -> Body:
    return body | {"token_type": fault.token_type}


def _huge(body: Body, _: Fault) -> Body:
    return body | {"padding": "x" * _HUGE}


def _merged(body: Body, fault: Fault) -> Body:
    return body | fault.body if isinstance(fault.body, dict) else body


_CHANGES: Mapping[FaultKind, Callable[[Body, Fault], Body]] = {
    "wrong_types": _wrong_types,
    "expires_in_string": _expires_in_string,
    "no_expires_in": _without("expires_in"),
    "no_refresh_token": _without("refresh_token"),
    "missing_snapshot_id": _without("snapshotId"),
    "token_type": _token_type,
    "huge": _huge,
    "body": _merged,
}
