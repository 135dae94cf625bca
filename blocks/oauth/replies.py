"""What a reply of the OAuth server means: judged by its class, since servers differ in the code."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import httpx

from blocks.http import NotJsonError, Reply, retry_after
from blocks.oauth.errors import (
    ClientRefusedError,
    ExchangeRefusedError,
    GrantLostError,
    OAuthError,
    RedirectedError,
    ReplyLostError,
    RevocationRefusedError,
    ServerUnavailableError,
    UnusableReplyError,
)
from blocks.quoting import quotable

CLIENT_CODES = {
    "invalid_client",
    "unauthorized_client",
    "unsupported_grant_type",
    "unauthorized",  # how Spring-based servers say invalid_client
}
_OAUTH_CODE = re.compile(r"[a-z][a-z0-9_.:-]{0,63}")
"""OAuth codes look like this; the `"error": "Forbidden"` of a web framework or gateway does not.

The difference decides whether a grant is given up."""


@dataclass(frozen=True)
class Operation:
    """One thing that is asked of the server, and what an operator does when it fails."""

    name: str
    refused: type[OAuthError]
    if_refused: str
    if_lost: str

    def unavailable(self, why: str, *, status: int | None = None) -> ServerUnavailableError:
        """The server did not act on the request."""
        return ServerUnavailableError(
            f"The OAuth server is not available for the {self.name} ({why}): nothing has changed, "
            "so run it again once the server is reachable.",
            status=status,
        )

    def lost(self, why: str, *, status: int | None = None) -> ReplyLostError:
        """The server may have acted on the request."""
        return ReplyLostError(
            f"The {self.name} was sent to the OAuth server, but no usable reply came back ({why}): "
            f"{self.if_lost}.",
            status=status,
        )


EXCHANGE = Operation(
    name="token exchange",
    refused=ExchangeRefusedError,
    if_refused="check the caller's token and the audience, resource and scope asked for",
    if_lost="configure again",
)
REFRESH = Operation(
    name="refresh",
    refused=GrantLostError,
    if_refused="the grant is lost, so configure this batch again",
    if_lost="the refresh token may be used up, which the next refresh will find out",
)
REVOCATION = Operation(
    name="revocation",
    refused=RevocationRefusedError,
    if_refused="end the grant at the server by hand",
    if_lost="if it matters, check at the server that the grant is gone",
)
DISCOVERY = Operation(
    name="discovery",
    refused=UnusableReplyError,
    if_refused="check issuer, or set token_endpoint",
    if_lost="nothing has changed, so run it again later",
)
INTROSPECTION = Operation(
    name="introspection",
    refused=UnusableReplyError,
    if_refused="let this client introspect tokens, or verify callers by jwks",
    if_lost="nothing has changed, so try again later",
)
KEY_SET = Operation(
    name="key set",
    refused=UnusableReplyError,
    if_refused="check issuer, or set jwks_uri",
    if_lost="nothing has changed, so try again later",
)


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
    an error. Any OAuth error that is neither about our client nor called temporary is final:
    servers refuse a dead token with invalid_grant, invalid_request and others.
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
    raise operation.refused(
        f"The OAuth server refused the {operation.name} ({answer}): {operation.if_refused}.",
        code=refusal.code,
        status=reply.status,
    )


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
    if declined or (code == "temporarily_unavailable" and not broken):
        failure = operation.unavailable(f"status {reply.status}", status=reply.status)
        failure.retry_after = wait
        failure.code = code
        raise failure
    if broken or reply.status == httpx.codes.REQUEST_TIMEOUT or code == "server_error":
        raise operation.lost(f"status {reply.status}", status=reply.status)


def _refusal(reply: Reply, secrets: Collection[str]) -> Refusal | None:
    """The OAuth error in the reply, if it has one."""
    try:
        body = reply.json_object()
    except NotJsonError:
        return None
    code = quotable(body.get("error"), secrets)
    if not _OAUTH_CODE.fullmatch(code):
        return None
    return Refusal(code, quotable(body.get("error_description"), secrets).rstrip("."))
