"""What an operator tells of the OAuth server: what to ask it for, and how patiently."""

from datetime import UTC, datetime
from typing import Any, Self

import httpx
from prefect.types import SecretDict
from pydantic import Field, field_validator, model_validator

from blocks.oauth.client_settings import ClientSettings, require_usable_url

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


class OAuthSettings(ClientSettings):
    """What is asked of the OAuth server and how patiently, and the rules between all fields."""

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
    extra_exchange_parameters: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        title="Extra exchange parameters",
        description=(
            "Whatever else this server wants to see in a token exchange, as texts. Kept secret: an "
            "actor_token is one of them."
        ),
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
        default=30.0,
        gt=0,
        title="Read timeout",
        description=(
            "Seconds to wait for the server's answer. Too short a time turns slow refreshes into "
            "doubtful ones."
        ),
        examples=[30.0],
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

    @field_validator("extra_exchange_parameters", mode="before")
    @classmethod
    def _unfilled_is_empty(cls, value: Any) -> Any:
        return {} if value is None or value == "" else value

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
        self._refuse_extra_parameters()
        self.credentials(audience="a trial", now=datetime.now(UTC))
        return self

    def _refuse_extra_parameters(self) -> None:
        """Raise ValueError, without what they hold, where they cannot be sent."""
        extras = self.extra_exchange_parameters.get_secret_value()
        if clashes := _OUR_PARAMETERS & extras.keys():
            raise ValueError(
                f"extra_exchange_parameters must not repeat {', '.join(sorted(clashes))}"
            )
        if not all(isinstance(value, str) for value in extras.values()):
            raise ValueError("extra_exchange_parameters must be texts")
