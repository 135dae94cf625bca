"""Who calls, and what they may do: bearer tokens (RFC 6750), verified as the OAuth block says."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from starlette.requests import Request

from blocks import systems
from blocks.http import is_safe_url
from blocks.oauth import Caller, OAuthServer
from deployments.http_api.memory import Memory
from deployments.http_api.prefect import prefect_at_hand
from deployments.http_api.problems import Fault, ProblemError, unauthorized

BELIEVED_FOR = 15.0
"""Seconds for which a token that was verified is believed: how long a revoked one still works."""

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
    ) -> None:
        self._load = load
        self._callers: Memory[bytes, Caller] = Memory(10_000)

    async def identify(self, request: Request, token: SecretStr) -> Caller:
        """Who calls; raises ProblemError, or an OAuthError where it cannot be told."""
        server = await self._load()
        if server.caller_verification == "none":
            require_loopback(request)
        # Not the token itself: a memory of tokens would be worth stealing.
        shown = f"{server.caller_verification} {token.get_secret_value()}"
        key = hashlib.sha256(shown.encode()).digest()
        caller = self._callers.get(key, within=BELIEVED_FOR)
        if caller is None:
            caller = await server.verify_caller(token)
            self._callers.put(key, caller)
        return caller

    async def check(self) -> None:
        """Raises what stands in the way of identifying anybody: Prefect away, no block saved."""
        systems.forget()
        await self._load()


def require_loopback(request: Request) -> None:
    """Raise ProblemError unless the request was sent to this machine's own loopback address.

    The `serve` command does not even listen elsewhere; an app that something else serves may. The
    Host header counts as well: a web page's own name can be made to lead to 127.0.0.1.
    """
    socket_host, _ = request.scope.get("server") or ("", None)
    hosts = (socket_host, request.url.hostname or "")
    if not all(is_safe_url(f"http://{f'[{host}]' if ':' in host else host}") for host in hosts):
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "Callers are not verified here, so only this machine is served: set "
            "caller_verification in the OAuth Server block.",
        )


def presented(credentials: Credentials) -> SecretStr:
    """The bearer token of the request; raises ProblemError, 401, where there is none."""
    if credentials is None:
        raise unauthorized("Send your access token as `Authorization: Bearer ...`.")
    if not _B64TOKEN.fullmatch(credentials.credentials):
        raise unauthorized("That is no access token (RFC 6750 2.1).", error="invalid_token")
    return SecretStr(credentials.credentials)


Token = Annotated[SecretStr, Depends(presented)]


async def identified(request: Request, token: Token) -> Caller:
    """The caller of the request."""
    callers: Callers = request.app.state.callers
    return await callers.identify(request, token)


Identified = Annotated[Caller, Depends(identified)]


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
