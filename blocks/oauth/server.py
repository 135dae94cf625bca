"""The OAuth server as the flows see it: exchange once, refresh every night, revoke at the end."""

from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, ClassVar

from prefect.blocks.core import Block
from pydantic import HttpUrl, SecretStr

from blocks.http import NotJsonError, Reply
from blocks.oauth import introspection
from blocks.oauth.call import Attempt, call
from blocks.oauth.callers import Caller, Expected, verified_claims
from blocks.oauth.client_settings import require_usable_url
from blocks.oauth.connection import Connection, Form
from blocks.oauth.errors import (
    CallerRefusedError,
    DiscoveryFailedError,
    OAuthError,
    ReplyLostError,
    TenantMismatchError,
)
from blocks.oauth.keys import KeySource
from blocks.oauth.kinds import refuse_other_kinds
from blocks.oauth.metadata import EXCHANGE_GRANT
from blocks.oauth.operations import (
    EXCHANGE,
    INTROSPECTION,
    KEY_SET,
    REFRESH,
    REVOCATION,
    Operation,
)
from blocks.oauth.replies import unusable
from blocks.oauth.tenant import require_tenant
from blocks.oauth.tokens import Tokens, read_exchange, read_refresh

EXCHANGE_PATIENCE = 30.0
REFRESH_PATIENCE = 60.0
REVOCATION_PATIENCE = 15.0
KEYS_PATIENCE = 2.0
"""Seconds after which no further attempt begins. One attempt under way may still end later."""


class OAuthServer(Connection, Block):
    """The OAuth server that turns a caller's access token into a grant for the nights to come.

    Example:
        Load a saved block and refresh a token:
        ```python
        from blocks.oauth import OAuthServer

        server = await OAuthServer.load("orders")
        tokens = await server.refresh(refresh_token)
        ```
    """

    _block_type_name = "OAuth Server"
    _block_type_slug = "oauth-server"
    _description = "Exchange a caller's access token for a grant, refresh it, and revoke it."
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://www.rfc-editor.org/rfc/rfc8693")
    _logo_url: ClassVar[HttpUrl | None] = HttpUrl("https://oauth.net/images/oauth-logo-square.png")

    async def exchange(self, subject_token: SecretStr, *, tenant_id: str) -> Tokens:
        """Exchange the caller's access token for a grant of our own (RFC 8693 2.1).

        Repeated where a reply is lost: at worst a grant that nobody holds is left at the server.

        Args:
            subject_token: The caller's access token.
            tenant_id: The tenant being configured, for the check that `tenant_claim` asks for.

        Returns:
            Tokens whose refresh_token is never None; access_token may be.

        Raises:
            ExchangeRefusedError: The server refuses the token, or what was asked for it.
            NoRefreshTokenError: The server gave nothing that outlives the caller.
            TenantMismatchError: The token is not the tenant's; the new grant has been revoked.
            OAuthError: Any other member of the family, GrantLostError excepted.
        """
        form = self._exchange_form(subject_token)
        read = partial(read_exchange, default_lifetime=self.default_token_lifetime)
        url = (await self._endpoints()).token_endpoint
        tokens = await self._ask(EXCHANGE, url, form, read, EXCHANGE_PATIENCE)
        if self.tenant_claim is not None:
            try:
                require_tenant(tokens.access_token, claim=self.tenant_claim, tenant_id=tenant_id)
            except TenantMismatchError:
                await self._abandon(tokens)
                raise
        return tokens

    async def refresh(
        self, refresh_token: SecretStr, *, patience: float = REFRESH_PATIENCE
    ) -> Tokens:
        """Obtain a new access token, and perhaps a new refresh token (RFC 6749 6).

        Call it with the stored token under a lock, store the new one before anything else, and
        never wrap it in further retries: a lost reply is answered here, with the same token and at
        once, or not at all (RFC 9700 4.14.2).

        Args:
            refresh_token: The refresh token in store.
            patience: Seconds after which no further attempt begins, Retry-After or not.

        Raises:
            GrantLostError: The server refuses the refresh token for good.
            ReplyLostError: The refresh token may be used up; try it once more later.
            ServerUnavailableError: The refresh token is certainly not used up.
            RefreshRefusedError: The server refuses for a reason that nobody knows; the grant is
                as good as before.
            ClientRefusedError: Our credentials are refused; the grant is as good as before.
            OAuthError: Any other member of the family; the grant is as good as before.
        """
        form: Form = [("grant_type", "refresh_token"), ("refresh_token", refresh_token)]
        read = partial(read_refresh, default_lifetime=self.default_token_lifetime)
        url = (await self._endpoints()).token_endpoint
        return await self._ask(REFRESH, url, form, read, patience)

    async def revoke(self, token: SecretStr) -> None:
        """End the grant of this refresh token (RFC 7009 2.1); nothing where the server has no way.

        Raises:
            RevocationRefusedError: The server refuses to revoke it.
            OAuthError: Any other member of the family, GrantLostError excepted.
        """
        form: Form = [("token", token), ("token_type_hint", "refresh_token")]
        url = (await self._endpoints()).revocation_endpoint
        if url is not None:
            await self._ask(REVOCATION, url, form, lambda *_: None, REVOCATION_PATIENCE)

    async def verify_caller(self, token: SecretStr) -> Caller:
        """Who calls the HTTP API with this access token, as `caller_verification` says.

        Raises:
            CallerRefusedError: The token is not good, or not good any more.
            OAuthError: Any other member of the family: it cannot be told at the moment.
        """
        expected = Expected(self.issuer, self.caller_audience, self.tenant_claim_of_callers or "")
        match self.caller_verification:
            case "none":
                return Caller(None)
            case "jwks":
                claims = await verified_claims(
                    token.get_secret_value(), await self._keys(), strictly=self.caller_at_jwt_only
                )
                return expected.read(claims, self._clock.now(), required=True)
            case "introspection":
                claims = await self._introspect(token)
                return expected.read(claims, self._clock.now(), required=False)

    async def _introspect(self, token: SecretStr) -> dict[str, Any]:
        """What the server says about the token (RFC 7662 2)."""
        url = self.introspection_endpoint or (await self._published()).introspection_endpoint
        if url is None:
            raise DiscoveryFailedError(
                "The OAuth server's metadata has no introspection endpoint: set "
                "introspection_endpoint, or verify callers by jwks."
            )
        form: Form = [("token", token), ("token_type_hint", "access_token")]
        read = partial(_json_object, operation=INTROSPECTION)
        async with introspection.turn(url):
            try:
                claims = await self._ask(INTROSPECTION, url, form, read, patience=0)
            except ReplyLostError as lost:
                if lost.status is not None:
                    raise
                # A connection that broke says nothing of the server: many are closed when idle.
                claims = await self._ask(INTROSPECTION, url, form, read, patience=0)
        if claims.get("active") is not True:
            raise CallerRefusedError("The access token is not, or no longer, valid.")
        refuse_other_kinds(claims)
        return claims

    async def _keys(self) -> KeySource:
        url = self.jwks_uri or (await self._published()).jwks_uri
        if url is None:
            raise DiscoveryFailedError(
                "The OAuth server's metadata has no key set: set jwks_uri, or verify callers by "
                "introspection."
            )
        return KeySource(url, partial(self._key_set, url), self._clock.now)

    async def _key_set(self, url: str) -> dict[str, Any]:
        require_usable_url(url, "the URL of the key set", allow_http=self.allow_http)
        headers = {"Accept": "application/jwk-set+json, application/json"}
        return await call(
            KEY_SET,
            lambda: Attempt(self._timeouts.build("GET", url, headers), self._timeouts.whole),
            partial(_json_object, operation=KEY_SET),
            clock=self._clock,
            patience=KEYS_PATIENCE,
        )

    def _exchange_form(self, subject_token: SecretStr) -> Form:
        """What is set is sent, and nothing else: servers conflict in what they accept."""
        form: Form = [
            ("grant_type", EXCHANGE_GRANT),
            ("subject_token", subject_token),
            ("subject_token_type", self.subject_token_type),
            *(("audience", name) for name in self.audience),
            *(("resource", uri) for uri in self.resource),
        ]
        if self.scope is not None:
            form.append(("scope", self.scope))
        if self.requested_token_type is not None:
            form.append(("requested_token_type", self.requested_token_type))
        extras = self.extra_exchange_parameters.get_secret_value()
        return [*form, *((name, SecretStr(value)) for name, value in extras.items())]

    async def _abandon(self, tokens: Tokens) -> None:
        """Leave no live grant behind that nobody will ever use."""
        if tokens.refresh_token is not None:
            with suppress(OAuthError):
                await self.revoke(tokens.refresh_token)


def _json_object(reply: Reply, _: datetime, *, operation: Operation) -> dict[str, Any]:
    try:
        return reply.json_object()
    except NotJsonError:
        pass
    raise unusable(reply, operation, "it is not a JSON object")
