"""What an operator tells about callers of the HTTP API: how their tokens are verified."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from blocks.oauth.client_settings import require_usable_url
from blocks.oauth.settings import OAuthSettings

CallerVerification = Literal["none", "jwks", "introspection"]


class CallerSettings(OAuthSettings):
    """The fields of the OAuth Server block that the Journeys API lives by."""

    caller_verification: CallerVerification = Field(
        default="none",
        title="Caller verification",
        description=(
            "How the Journeys API verifies its callers' access tokens: by their signature (jwks, "
            "RFC 7515) or by asking the server (introspection, RFC 7662). With none it serves "
            "this machine only."
        ),
        examples=["jwks"],
    )
    caller_audience: str | None = Field(
        default=None,
        title="Caller audience",
        description=(
            "The name of the Journeys API among the `aud` of its callers' tokens. Without it, "
            "tokens meant for any service of the issuer are accepted."
        ),
        examples=["journeys"],
    )
    caller_tenant_claim: str | None = Field(
        default=None,
        title="Caller tenant claim",
        description=(
            "The claim of a caller's token that names the tenant, or lists the tenants, that the "
            "caller may act for. The tenant claim by default."
        ),
        examples=["tenant_id"],
    )
    caller_at_jwt_only: bool = Field(
        default=False,
        title="Callers' tokens say at+jwt",
        description=(
            "With jwks, accept only tokens whose header says `typ: at+jwt`, as RFC 9068 wants it. "
            "Without it, what is recognisably an ID, logout or refresh token is refused, and what "
            "says nothing of its kind is accepted: many servers do not say it."
        ),
        examples=[False],
    )
    jwks_uri: str | None = Field(
        default=None,
        title="JWKS URI",
        description="Where the issuer publishes its keys. Discovered when left out.",
        examples=["https://auth.example.com/oauth/jwks"],
    )
    introspection_endpoint: str | None = Field(
        default=None,
        title="Introspection endpoint",
        description="Where the server tells about a token. Discovered when left out.",
        examples=["https://auth.example.com/oauth/introspect"],
    )

    @field_validator(
        "caller_audience",
        "caller_tenant_claim",
        "jwks_uri",
        "introspection_endpoint",
        mode="before",
    )
    @classmethod
    def _unfilled_is_none(cls, value: Any) -> Any:
        return None if isinstance(value, str) and not value.strip() else value

    @model_validator(mode="after")
    def _refuse_what_cannot_verify(self) -> Self:
        """Name the field to mend, now rather than at the first call."""
        for name in ("jwks_uri", "introspection_endpoint"):
            if (url := getattr(self, name)) is not None:
                require_usable_url(url, name, allow_http=self.allow_http)
        if self.caller_at_jwt_only and self.caller_verification != "jwks":
            raise ValueError("caller_at_jwt_only needs caller_verification jwks")
        if self.caller_verification == "none":
            return self
        if not self.tenant_claim_of_callers:
            raise ValueError("caller_tenant_claim is missing; without it nobody may do anything")
        if self.caller_verification == "jwks" and self.issuer is None:
            raise ValueError("issuer is missing; callers' tokens must carry it as their `iss`")
        if not (self.issuer or self.introspection_endpoint):
            raise ValueError("introspection_endpoint is missing; give it, or issuer")
        return self

    @property
    def tenant_claim_of_callers(self) -> str | None:
        """The claim in which a caller's token names its tenants."""
        return self.caller_tenant_claim or self.tenant_claim
