"""What an operator tells of where the OAuth server is, and of who we are there."""

from datetime import datetime

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr

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


class ClientSettings(BaseModel):
    """The fields of the OAuth Server block by which the server is reached and told who asks."""

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
