"""Who calls the HTTP API, and for which tenants: read out of a verified access token."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwt import JWTClaimsRegistry

from blocks.oauth.errors import CallerRefusedError
from blocks.oauth.keys import KeySource
from blocks.oauth.kinds import require_access_token
from blocks.oauth.tenant import tenants_in

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
"""Signatures that only the issuer can make. Never "none", and never HMAC: with it, whoever knows a
public key could sign (RFC 8725 2.1)."""

LEEWAY = 30
"""Seconds by which the issuer's clock and ours may differ."""


@dataclass(frozen=True)
class Caller:
    """A caller whose token is good; `tenants` is None where callers are not verified."""

    tenants: frozenset[str] | None

    def may_act_for(self, tenant_id: str) -> bool:
        """Whether the caller's token names this tenant, exactly."""
        return self.tenants is None or tenant_id in self.tenants


@dataclass(frozen=True)
class Expected:
    """What a caller's token must say."""

    issuer: str | None
    audience: str | None
    tenant_claim: str

    def read(self, claims: Mapping[str, Any], now: datetime, *, required: bool) -> Caller:
        """The caller that these verified claims describe; raises CallerRefusedError.

        Args:
            claims: The claims of a token whose signature or server vouches for them.
            now: The moment at which the token must be valid.
            required: Whether `iss` and `exp` must be there: in a JWT (RFC 9068 2.2), while an
                introspection's "active" already says as much (RFC 7662 2.2).
        """
        wanted: dict[str, Any] = {"exp": {"essential": required}}
        if self.issuer is not None:
            wanted["iss"] = {"essential": required, "value": self.issuer}
        if self.audience is not None:
            wanted["aud"] = {"essential": True, "value": self.audience}
        registry = JWTClaimsRegistry(now=int(now.timestamp()), leeway=LEEWAY, **wanted)
        try:
            registry.validate(dict(claims))
        except (JoseError, ValueError, TypeError, RecursionError):
            refused = True
        else:
            refused = False
        # Raised out here, and below: the library's errors hold what they could not accept.
        if refused:
            raise CallerRefusedError("The access token is expired, or not meant for this service.")
        return Caller(tenants_in(claims, self.tenant_claim))


async def verified_claims(token: str, keys: KeySource, *, strictly: bool) -> dict[str, Any]:
    """The claims of a signed access token (RFC 7519).

    Raises:
        CallerRefusedError: The issuer did not sign it, or it is another kind of token; `strictly`
            is for RFC 9068 4 to the letter.
        OAuthError: The issuer's keys cannot be had.
    """
    header = _header(token)
    kid = header.get("kid")
    key = await keys.find(kid if isinstance(kid, str) else None)
    try:
        claims = jwt.decode(token, key, algorithms=ALGORITHMS).claims if key else None
    except (JoseError, ValueError, TypeError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise CallerRefusedError("The access token is not signed by the issuer.")
    require_access_token(header.get("typ"), claims, strictly=strictly)
    return claims


def _header(token: str) -> dict[str, Any]:
    try:
        header: dict[str, Any] | None = jws.extract_compact(token.encode()).headers()
    except (JoseError, ValueError, TypeError, RecursionError):
        header = None
    if header is None:
        raise CallerRefusedError("The access token is not a signed JWT.")
    return header
