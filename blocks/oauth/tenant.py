"""Whether an exchanged access token belongs to the tenant that is being configured."""

import json
from base64 import urlsafe_b64decode
from typing import Any

from pydantic import SecretStr

from blocks.oauth.errors import TenantMismatchError


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
    value = _claims(access_token.get_secret_value()).get(claim)
    # A claim may be a number where our id is text; True is a number to Python, but no tenant.
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value) == tenant_id:
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
