"""What an operator tells about the OAuth server: where it is, who we are there, what to ask for."""

from datetime import UTC, datetime
from typing import Any, Self

import httpx
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from blocks.http import is_safe_url
from blocks.oauth.authentication import (
    AuthenticationMethod,
    Credentials,
    SigningAlgorithm,
    SigningKey,
    client_secret_basic,
    client_secret_post,
    private_key_jwt,
    public_client,
)
from blocks.oauth.errors import InsecureUrlError

ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type's name

_OUR_PARAMETERS = {
    "grant_type",
    "subject_token",
    "subject_token_type",
    "requested_token_type",
    "audience",
    "resource",
    "scope",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
}


class OAuthSettings(BaseModel):
    """The fields of the OAuth Server block, and the rules that hold between them."""

    # A validation error shows its input otherwise, and the input here holds secrets.
    model_config = ConfigDict(hide_input_in_errors=True)

    issuer: str | None = Field(
        default=None,
        title="Issuer",
        description=(
            "The server's issuer identifier, exactly as it writes it. Its endpoints are "
            "discovered from it (RFC 8414) when no token endpoint is given."
        ),
        examples=["https://auth.example.com/realms/orders"],
    )
    token_endpoint: str | None = Field(
        default=None,
        title="Token endpoint",
        description="Where tokens are exchanged and refreshed. Given, nothing is discovered.",
        examples=["https://auth.example.com/oauth/token"],
    )
    revocation_endpoint: str | None = Field(
        default=None,
        title="Revocation endpoint",
        description="Where a grant is ended (RFC 7009). Without one, grants just run out.",
        examples=["https://auth.example.com/oauth/revoke"],
    )
    client_id: str = Field(
        min_length=1,
        title="Client id",
        description="The id under which this project is registered at the server.",
        examples=["orders-batch-close"],
    )
    token_endpoint_auth_method: AuthenticationMethod = Field(
        default="client_secret_basic",
        title="Client authentication",
        description="How the client proves who it is. Exactly this method is used.",
        examples=["private_key_jwt"],
    )
    client_secret: SecretStr | None = Field(
        default=None,
        title="Client secret",
        description="The client's secret, for client_secret_basic and client_secret_post.",
        examples=["a-long-random-secret"],
    )
    private_key: SecretStr | None = Field(
        default=None,
        title="Private key",
        description=(
            "The key that signs client assertions, for private_key_jwt. PEM, or a JWK as JSON, "
            "which fits into a one-line input."
        ),
        examples=['{"kty": "EC", "crv": "P-256", "x": "...", "y": "...", "d": "..."}'],
    )
    private_key_id: str | None = Field(
        default=None,
        title="Private key id",
        description="The `kid` under which the server knows the key.",
        examples=["2026-11"],
    )
    signing_algorithm: SigningAlgorithm = Field(
        default="RS256",
        title="Signing algorithm",
        description="The algorithm of client assertions. It has to fit the private key.",
        examples=["ES256"],
    )
    assertion_audience: str | None = Field(
        default=None,
        title="Assertion audience",
        description=(
            "The `aud` of client assertions. The issuer by default, or the token endpoint when no "
            "issuer is given. Some servers accept only one of the two."
        ),
        examples=["https://auth.example.com/oauth/token"],
    )
    audience: list[str] = Field(
        default=["orders-batch"],
        title="Audience",
        description="The services that the exchanged token is for, by name. May be empty.",
        examples=[["orders-batch"]],
    )
    resource: list[str] = Field(
        default=[],
        title="Resource",
        description="The services that the exchanged token is for, by URI. Sent only when given.",
        examples=[["https://orders.example.com/"]],
    )
    scope: str | None = Field(
        default=None,
        title="Scope",
        description="The scope to ask for, space-separated. Sent only when given.",
        examples=["offline_access orders.close"],
    )
    subject_token_type: str = Field(
        default=ACCESS_TOKEN_TYPE,
        title="Subject token type",
        description="What kind of token the caller presents.",
        examples=["urn:ietf:params:oauth:token-type:jwt"],
    )
    requested_token_type: str | None = Field(
        default=None,
        title="Requested token type",
        description=(
            "What kind of token to ask for. Some servers give a refresh token only when it is "
            "named here. Sent only when given."
        ),
        examples=["urn:ietf:params:oauth:token-type:refresh_token"],
    )
    extra_exchange_parameters: dict[str, str] = Field(
        default={},
        title="Extra exchange parameters",
        description="Whatever else this server wants to see in a token exchange.",
        examples=[{"subject_issuer": "corporate"}],
    )
    tenant_claim: str | None = Field(
        default=None,
        title="Tenant claim",
        description=(
            "The claim of the exchanged access token that must equal the tenant's id. Without it, "
            "any caller that the server accepts may configure any tenant."
        ),
        examples=["tenant_id"],
    )
    revoke_replaced: bool = Field(
        default=True,
        title="Revoke replaced grants",
        description=(
            "When a batch is configured again, revoke the grant that was in use before. Switch it "
            "off for a server that ends the caller's whole session with it, as Keycloak does."
        ),
        examples=[True],
    )
    refreshes_at_once: int = Field(
        default=4,
        ge=1,
        le=100,
        title="Refreshes at once",
        description=(
            "How many refresh tokens one worker process exchanges at a time. A process that is "
            "killed can lose no more grants than that, and none where the server forgives a "
            "refresh token that is repeated within seconds."
        ),
        examples=[4],
    )
    connect_timeout: float = Field(
        default=5.0,
        gt=0,
        title="Connect timeout",
        description="Seconds to wait for a connection.",
        examples=[5.0],
    )
    read_timeout: float = Field(
        default=10.0,
        gt=0,
        title="Read timeout",
        description=(
            "Seconds to wait for the server's answer. Too short a time turns slow refreshes into "
            "doubtful ones."
        ),
        examples=[10.0],
    )
    default_token_lifetime: float = Field(
        default=60.0,
        gt=0,
        title="Default token lifetime",
        description="Seconds that an access token is taken to live when the server does not say.",
        examples=[60.0],
    )
    allow_http: bool = Field(
        default=False,
        title="Allow HTTP",
        description=(
            "Whether secrets may travel in plain HTTP to another machine. On this machine they "
            "always may."
        ),
        examples=[False],
    )

    @field_validator("audience", "resource", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        """Take one name for a list of one, and a cleared form field for none."""
        if value is None or value == "":
            return []
        return [value] if isinstance(value, str) else value

    @field_validator(
        "issuer",
        "token_endpoint",
        "revocation_endpoint",
        "client_secret",
        "private_key",
        "private_key_id",
        "assertion_audience",
        "scope",
        "requested_token_type",
        "tenant_claim",
        mode="before",
    )
    @classmethod
    def _blank_is_none(cls, value: Any) -> Any:
        """Take a cleared form field for one that was never filled in."""
        return None if isinstance(value, str) and not value.strip() else value

    @model_validator(mode="after")
    def _refuse_what_cannot_work(self) -> Self:
        """Name the field to mend, now rather than at night."""
        if self.issuer is None and self.token_endpoint is None:
            raise ValueError("token_endpoint is missing; give it, or issuer to discover it from")
        for name in ("issuer", "token_endpoint", "revocation_endpoint"):
            if (url := getattr(self, name)) is not None:
                require_usable_url(url, name, allow_http=self.allow_http)
        if self.issuer is not None and httpx.URL(self.issuer).query:
            raise ValueError("issuer must not have a query")
        clashes = _OUR_PARAMETERS & self.extra_exchange_parameters.keys()
        if clashes:
            raise ValueError(
                f"extra_exchange_parameters must not repeat {', '.join(sorted(clashes))}"
            )
        self.credentials(audience="a trial", now=datetime.now(UTC))
        return self

    def credentials(self, *, audience: str, now: datetime) -> Credentials:
        """What authenticates one attempt at the server (RFC 6749 2.3, RFC 7523 2.2).

        Raises:
            ValueError: The method needs a secret or key that is missing or does not fit.
        """
        method = self.token_endpoint_auth_method
        if method == "none":
            return public_client(self.client_id)
        if method == "private_key_jwt":
            if self.private_key is None:
                raise ValueError("private_key is missing; private_key_jwt needs it")
            key = SigningKey(self.private_key, self.signing_algorithm, self.private_key_id)
            return private_key_jwt(self.client_id, key, audience=audience, now=now)
        if self.client_secret is None:
            raise ValueError(f"client_secret is missing; {method} needs it")
        if method == "client_secret_post":
            return client_secret_post(self.client_id, self.client_secret)
        return client_secret_basic(self.client_id, self.client_secret)


def require_usable_url(url: str, name: str, *, allow_http: bool) -> None:
    """Return if a token may be sent to this URL; raise InsecureUrlError, naming it, if not."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        raise InsecureUrlError(f"{name} is not a URL.") from None
    if parts.userinfo or parts.fragment:
        raise InsecureUrlError(f"{name} must not carry a user name, a password or a fragment.")
    if is_safe_url(url) or (allow_http and parts.scheme == "http" and parts.host):
        return
    raise InsecureUrlError(
        f"{name} must be an https URL: over plain HTTP, tokens could be read on their way."
    )
