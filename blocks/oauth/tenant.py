"""Which tenants an access token belongs to, as one of its claims says."""

import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from blocks.oauth.errors import TenantMismatchError


def tenants_in(claims: Mapping[str, Any], claim: str) -> frozenset[str]:
    """The tenants that the claim names: one, or a list of them; none where it is missing."""
    value = claims.get(claim)
    named = value if isinstance(value, list) else [value]
    # A claim may be a number where our id is text; True is a number to Python, but no tenant.
    return frozenset(
        str(tenant)
        for tenant in named
        if isinstance(tenant, str | int) and not isinstance(tenant, bool)
    )


def require_tenant(access_token: SecretStr | None, *, claim: str, tenant_id: str) -> None:
    """Return if the token carries `claim` equal to `tenant_id`; raise TenantMismatchError if not.

    The signature is not verified, and need not be: the token came over TLS straight from the server
    that issued it (OpenID Connect Core 3.1.3.7 argues the same). A token that cannot be read fails.
    """
    if access_token is None:
        raise TenantMismatchError(
            f"The exchange gave no access token in which the claim {claim!r} could be checked: "
            "let it return one beside the refresh token, or unset tenant_claim."
        )
    claims = _claims(access_token.get_secret_value())
    # One tenant: a list would make the grant of these nights good for others' as well.
    if not isinstance(claims.get(claim), list) and tenants_in(claims, claim) == {tenant_id}:
        return
    raise TenantMismatchError(
        f"The exchanged access token does not carry the claim {claim!r} with this tenant's id: "
        "configure with a token of the tenant itself."
    )


def _claims(token: str) -> dict[str, Any]:
    """The payload of a JWT; empty for anything else."""
    try:
        _, payload, _ = token.split(".")
        claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}
