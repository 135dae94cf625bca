"""Who calls, and what they may do: bearer tokens (RFC 6750), verified as the OAuth block says."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from starlette.requests import Request

from blocks import systems
from blocks.http import is_loopback
from blocks.oauth import Caller, OAuthServer
from blocks.oauth.shared_fetch import SharedFetches
from deployments.http_api.memory import Memory
from deployments.http_api.prefect import prefect_at_hand
from deployments.http_api.problems import Fault, ProblemError, unauthorized
from deployments.own_token import TokenFinder

UNVERIFIED = (
    "Callers are not verified: set caller_verification in the OAuth Server block. To try it on this"
    " machine alone, start the API with --unverified."
)

BELIEVED_FOR = 15.0
"""Seconds for which a token that was verified is believed: how long a revoked one still works."""

LONGEST_SEARCHED = 2048
"""Characters of a query that are searched for the token: no operation has a query at all."""

_PROXIES = re.compile(
    "forwarded|x-(original-)?forwarded.*|via|x-real-ip|x-client-ip|x-original-(host|url)|"
    "true-client-ip|.*-connecting-ip|x-envoy-.*"
)
"""Headers by which a proxy says on whose behalf it asks (RFC 7239, RFC 9110 7.6.3, and customs)."""

_B64TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 2.1

bearer = HTTPBearer(auto_error=False, description="The caller's own access token.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


async def saved_server() -> OAuthServer:
    """The OAuth Server block as it is saved now; raises NotSavedError."""
    async with prefect_at_hand():
        return await systems.oauth_server()


class Callers:
    """Tells who calls, and remembers it for some seconds."""

    def __init__(
        self,
        load: Callable[[], Awaitable[OAuthServer]] = saved_server,
        *,
        serves_unverified: bool = False,
    ) -> None:
        self._load, self._serves_unverified = load, serves_unverified
        self._callers: Memory[str, Caller] = Memory(10_000)
        self._verifying: SharedFetches[Caller] = SharedFetches()

    async def identify(self, request: Request, token: SecretStr) -> Caller:
        """Who calls; raises ProblemError, or an OAuthError where it cannot be told."""
        server = await self._load()
        if server.caller_verification == "none":
            require_loopback(request)
            if not self._serves_unverified:
                raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, UNVERIFIED)
        # Not the token itself: a memory of tokens would be worth stealing.
        shown = f"{server.caller_verification} {token.get_secret_value()}"
        key = hashlib.sha256(shown.encode()).hexdigest()
        caller = self._callers.get(key, within=BELIEVED_FOR)
        if caller is None:
            caller = await self._verifying.get(key, partial(server.verify_caller, token))
            self._callers.put(key, caller)
        return caller

    async def check(self) -> None:
        """Raises what stands in the way of identifying anybody: Prefect away, no block saved."""
        systems.forget()
        await self._load()


def require_loopback(request: Request) -> None:
    """Raise ProblemError unless the request was sent by this machine to its own loopback address.

    The `serve` command does not even listen elsewhere; an app that something else serves may. The
    Host header counts as well: a web page's own name can be made to lead to 127.0.0.1. So does what
    a proxy says of itself: behind one, everybody comes from 127.0.0.1.
    """
    scope = request.scope
    ends = [(scope.get(end) or ("", None))[0] for end in ("server", "client")]
    is_here = all(is_loopback(host) for host in (*ends, request.url.hostname or ""))
    # HTTP/1.0 is what nginx speaks to an upstream to which it says nothing of itself.
    is_relayed = scope.get("http_version") == "1.0" or any(
        _PROXIES.fullmatch(name) for name in request.headers
    )
    if not is_here or is_relayed:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "Callers are not verified here, so only this machine is served, and no proxy: set "
            "caller_verification in the OAuth Server block.",
        )


def presented(request: Request, credentials: Credentials) -> SecretStr:
    """The bearer token of the request; raises ProblemError, 401, where there is none.

    Nor is there one where the URL has one, too (RFC 6750 2.3): it may have been logged on its way.
    """
    if "access_token" in request.query_params:
        raise _in_url()
    token = credentials.credentials if credentials else ""
    if not token:
        raise unauthorized("Send your access token as `Authorization: Bearer ...`.")
    if not _B64TOKEN.fullmatch(token):
        raise unauthorized("That is no access token (RFC 6750 2.1).", error="invalid_token")
    return SecretStr(token)


Token = Annotated[SecretStr, Depends(presented)]


async def identified(request: Request, token: Token) -> Caller:
    """The caller of the request; raises ProblemError, 401, where the URL has their token.

    Under whatever name it is there. It is looked for in a request of a known caller only, because
    searching takes the time of all callers.
    """
    callers: Callers = request.app.state.callers
    caller = await callers.identify(request, token)
    if TokenFinder(token).is_in(request.url.query[:LONGEST_SEARCHED]):
        raise _in_url()
    return caller


Identified = Annotated[Caller, Depends(identified)]


def _in_url() -> ProblemError:
    return unauthorized(
        "Send your access token in the Authorization header only: one in a URL ends up in logs,"
        " so have it revoked.",
        error="invalid_request",
    )


def require_tenant(caller: Caller, tenant_id: object) -> None:
    """Raise ProblemError, 403, unless the caller may act for this tenant.

    An id that is not text is left to the contract, which refuses it and says why.
    """
    if isinstance(tenant_id, str) and not caller.may_act_for(tenant_id):
        fault = Fault(
            field="tenantId",
            pointer="#/tenantId",
            detail="tenantId is not a tenant that your access token allows.",
        )
        raise ProblemError(
            HTTPStatus.FORBIDDEN, "Your access token is not this tenant's.", errors=[fault]
        )
