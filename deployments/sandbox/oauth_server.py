"""The OAuth server: metadata, token exchange, refresh with rotation, revocation, introspection."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.sandbox.client_auth import ClientAuthenticator
from deployments.sandbox.forms import Form, read_form, required
from deployments.sandbox.gateway import Call, Gateway
from deployments.sandbox.ledger import Ledger
from deployments.sandbox.replies import Body, RefusedError, Reply
from deployments.sandbox.settings import SandboxSettings
from deployments.sandbox.tokens import Issued, ReusedTokenError, TokenStore, UnknownTokenError

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
REFRESH_TOKEN = "urn:ietf:params:oauth:token-type:refresh_token"


class OAuthServer:
    """RFC 8414, 8693, 6749 section 6, 7009 and 7662, for one client and any number of tenants."""

    def __init__(
        self,
        settings: SandboxSettings,
        tokens: TokenStore,
        clients: ClientAuthenticator,
        ledger: Ledger,
        gateway: Gateway,
    ) -> None:
        self._settings = settings
        self._tokens = tokens
        self._clients = clients
        self._ledger = ledger
        self._gateway = gateway

    def routes(self) -> list[Route]:
        """The server's routes, the busiest first."""
        return [
            Route("/oauth/token", self.token, methods=["POST"]),
            Route("/oauth/revoke", self.revoke, methods=["POST"]),
            Route("/oauth/introspect", self.introspect, methods=["POST"]),
            Route("/.well-known/oauth-authorization-server", self.metadata),
        ]

    async def metadata(self, request: Request) -> Response:
        """RFC 8414. The issuer is the base URL under which the client reached us."""
        issuer = _issuer(request)
        return JSONResponse(
            {
                "issuer": issuer,
                "token_endpoint": f"{issuer}/oauth/token",
                "revocation_endpoint": f"{issuer}/oauth/revoke",
                "introspection_endpoint": f"{issuer}/oauth/introspect",
                "response_types_supported": [],
                "grant_types_supported": [TOKEN_EXCHANGE, "refresh_token"],
                "token_endpoint_auth_methods_supported": self._settings.client_auth,
            }
        )

    async def token(self, request: Request) -> Response:
        """RFC 6749 3.2: the two grants of this server."""
        form = await read_form(request)
        if form.get("grant_type") == "refresh_token":
            return await self._refresh(request, form)
        subject_token = form.get("subject_token")
        tenant = self._tokens.subject_tenant(subject_token)
        call = self._gateway.receive(request, "token.exchange", tenant, work=subject_token)
        return await self._gateway.answer(call, self._for_client(request, form, self._exchanged))

    async def revoke(self, request: Request) -> Response:
        """RFC 7009: 200 for an unknown token too."""
        form = await read_form(request)
        tenant = self._tokens.refresh_tenant(form.get("token"))
        call = self._gateway.receive(request, "revoke", tenant)
        return await self._gateway.answer(call, self._for_client(request, form, self._revoked))

    async def introspect(self, request: Request) -> Response:
        """RFC 7662: whether a token is a caller's, and of which tenant."""
        form = await read_form(request)
        tenant = self._tokens.subject_tenant(form.get("token"))
        call = self._gateway.receive(request, "introspect", tenant)
        work = self._for_client(request, form, self._introspected)
        return await self._gateway.answer(call, work)

    async def _refresh(self, request: Request, form: Form) -> Response:
        token = form.get("refresh_token")
        grant = self._tokens.refresh_grant(token)
        tenant = grant.tenant if grant else None
        call = self._gateway.receive(request, "token.refresh", tenant, work=grant)
        if self._tokens.is_presented_twice(token, call.process):
            self._ledger.count("presented_twice")
        # A reply without a refresh token tells the client to keep the old one (RFC 6749 6),
        # so the server that leaves it out must not have replaced it.
        rotate = call.fault is None or call.fault.kind != "no_refresh_token"
        work = self._for_client(request, form, lambda form: self._refreshed(form, call, rotate))
        return await self._gateway.answer(call, work)

    def _for_client(
        self, request: Request, form: Form, work: Callable[[Form], Reply]
    ) -> Callable[[], Reply]:
        def authenticated() -> Reply:
            authorization = request.headers.get("authorization")
            self._clients.check(authorization, form, _issuer(request))
            return work(form)

        return authenticated

    def _exchanged(self, form: Form) -> Reply:
        _require_exchange(form)
        try:
            issued = self._tokens.exchange(form["subject_token"])
        except UnknownTokenError:
            why = "the subject token is not acceptable"
            raise RefusedError(400, "invalid_request", why=why) from None
        self._ledger.count("configured")
        return Reply(200, self._exchange_body(issued))

    def _refreshed(self, form: Form, call: Call, rotate: bool) -> Reply:
        token = required(form, "refresh_token")
        try:
            issued = self._tokens.refresh(token, rotate=rotate, process=call.process)
        except ReusedTokenError:
            self._ledger.count("reuse")
            why = "the refresh token was used before: the grant is revoked"
            raise RefusedError(400, "invalid_grant", why=why) from None
        except UnknownTokenError:
            raise RefusedError(400, "invalid_grant") from None
        self._ledger.count("refreshed")
        return Reply(200, self._token_body(issued))

    def _revoked(self, form: Form) -> Reply:
        self._tokens.revoke(required(form, "token"))
        return Reply(200, {})

    def _introspected(self, form: Form) -> Reply:
        tenant = self._tokens.subject_tenant(required(form, "token"))
        if tenant is None:
            return Reply(200, {"active": False})
        return Reply(200, {"active": True, "token_type": "Bearer", "tenant_id": tenant})

    def _exchange_body(self, issued: Issued) -> Body:
        if self._settings.exchange_style == "as_access_token":
            return {
                "access_token": issued.refresh_token,
                "issued_token_type": REFRESH_TOKEN,
                "token_type": "N_A",
            }
        if self._settings.exchange_style == "none":
            issued = Issued(issued.access_token, None)
        return self._token_body(issued) | {"issued_token_type": ACCESS_TOKEN}

    def _token_body(self, issued: Issued) -> Body:
        body: Body = {
            "access_token": issued.access_token,
            "token_type": "Bearer",
            "expires_in": self._settings.access_token_seconds,
        }
        return body | {"refresh_token": issued.refresh_token} if issued.refresh_token else body


def _issuer(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _require_exchange(form: Form) -> None:
    if required(form, "grant_type") != TOKEN_EXCHANGE:
        raise RefusedError(400, "unsupported_grant_type")
    required(form, "subject_token")
    if required(form, "subject_token_type") != ACCESS_TOKEN:
        raise RefusedError(400, "invalid_request", why="subject_token_type is not supported")
