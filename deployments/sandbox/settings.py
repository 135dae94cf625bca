"""How one sandbox behaves: whom it trusts, how it rotates, how long its tokens live."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Clock = Callable[[], datetime]
"""Tells the moment, timezone-aware. The sandbox never asks the time in any other way."""

Rotation = Literal["strict", "grace", "none"]
ExchangeStyle = Literal["refresh_token_member", "as_access_token", "none"]
AuthMethod = Literal["client_secret_basic", "client_secret_post", "private_key_jwt"]
AUTH_METHODS: tuple[AuthMethod, ...] = (
    "client_secret_basic",
    "client_secret_post",
    "private_key_jwt",
)


def utc_now() -> datetime:
    """The moment, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class SandboxSettings:
    """Everything about a sandbox that can be chosen; the defaults are the strictest server.

    Attributes:
        rotation: What a refresh does to the refresh token. "strict": it is replaced, and
            presenting it again revokes the grant. "grace": as strict, but only after
            `grace_seconds`. "none": it stays the same.
        grace_seconds: How long a replaced refresh token keeps working under "grace".
        access_token_seconds: The life of an access token.
        exchange_style: Where the exchange puts the refresh token: beside the access token,
            in its place (`token_type` N_A), or nowhere.
        client_auth: The client authentication methods that are accepted.
        client_id: The one registered client.
        client_secret: Its secret.
        client_public_jwk: Its public key as a JWK, for private_key_jwt.
        events_kept: How many events are remembered before the oldest are forgotten.
    """

    rotation: Rotation = "strict"
    grace_seconds: float = 10.0
    access_token_seconds: int = 300
    exchange_style: ExchangeStyle = "refresh_token_member"
    client_auth: tuple[AuthMethod, ...] = AUTH_METHODS
    client_id: str = "batch-close"
    client_secret: str = "sandbox-secret"
    client_public_jwk: Mapping[str, Any] | None = None
    events_kept: int = 50_000
