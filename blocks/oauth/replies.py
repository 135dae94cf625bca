"""What a reply of the OAuth server means: judged by its class, since servers differ in the code."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from blocks.http import NotJsonError, Reply, retry_after
from blocks.oauth.codes import CLIENT_CODES, is_code, is_passing
from blocks.oauth.errors import ClientRefusedError, RedirectedError, UnusableReplyError
from blocks.oauth.operations import Operation
from blocks.quoting import quotable


@dataclass(frozen=True)
class Refusal:
    """An OAuth error as the server worded it, already fit to be shown."""

    code: str
    description: str

    def __str__(self) -> str:
        return f"{self.code}: {self.description}" if self.description else self.code


def judge(
    reply: Reply, operation: Operation, *, secrets: Collection[str] = (), now: datetime
) -> None:
    """Return when the reply is a success that may be read; raise what it means otherwise.

    The rules: RFC 6749 5.2, RFC 8693 2.2.2, RFC 7009 2.2.1; a 200 that carries an OAuth error is
    an error. One that is neither about our client nor passing is final; whether a grant is given up
    for it is told by the code (see `codes`).
    """
    if httpx.codes.is_redirect(reply.status):
        raise RedirectedError(
            f"The OAuth server answered the {operation.name} with a redirect ({reply.status}), "
            "which is never followed: configure the URL that it leads to.",
            status=reply.status,
        )
    refusal = _refusal(reply, secrets)
    _raise_if_transient(reply, operation, refusal, now)
    if refusal is None:
        if not httpx.codes.is_success(reply.status):
            raise unusable(reply, operation, "it is not an OAuth error")
        return
    answer = f"{reply.status} {refusal}"
    if refusal.code in CLIENT_CODES:
        raise ClientRefusedError(
            f"The OAuth server refuses this client ({answer}): check client_id, its credentials "
            "and the grant types it is registered for; no grant is lost by it.",
            code=refusal.code,
            status=reply.status,
        )
    raise operation.refusal(answer, refusal.code, reply.status)


def unusable(reply: Reply, operation: Operation, why: str) -> UnusableReplyError:
    """The error for a reply that no OAuth server should give."""
    return UnusableReplyError(
        f"The reply to the {operation.name} (status {reply.status}) cannot be used, {why}: check "
        "that the configured URL is the OAuth server's.",
        status=reply.status,
    )


def _raise_if_transient(
    reply: Reply, operation: Operation, refusal: Refusal | None, now: datetime
) -> None:
    wait = retry_after(reply.headers, now)
    code = refusal.code if refusal else None
    # A 503 that names a time is the server's own decision not to work. Without one it may be a
    # gateway whose upstream went away in the middle of the work, like any other 5xx.
    declined = reply.status == httpx.codes.TOO_MANY_REQUESTS or (
        reply.status == httpx.codes.SERVICE_UNAVAILABLE and wait is not None
    )
    broken = httpx.codes.is_server_error(reply.status)
    if declined or (is_passing(_body(reply).get("error")) and not broken):
        failure = operation.unavailable(f"status {reply.status}", status=reply.status)
        failure.retry_after = wait
        failure.code = code
        raise failure
    if broken or reply.status == httpx.codes.REQUEST_TIMEOUT or code == "server_error":
        raise operation.lost(f"status {reply.status}", status=reply.status)


def _refusal(reply: Reply, secrets: Collection[str]) -> Refusal | None:
    """The OAuth error in the reply, if it has one."""
    body = _body(reply)
    code = quotable(body.get("error"), secrets)
    if not is_code(code):
        return None
    return Refusal(code, quotable(body.get("error_description"), secrets).rstrip("."))


def _body(reply: Reply) -> dict[str, Any]:
    try:
        return reply.json_object()
    except NotJsonError:
        return {}
