"""What an issuer publishes about itself: authorization server metadata (RFC 8414)."""

import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from blocks.oauth.errors import DiscoveryFailedError

EXCHANGE_GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Metadata:
    """What this project uses of an issuer's metadata."""

    token_endpoint: str
    revocation_endpoint: str | None
    jwks_uri: str | None = None
    introspection_endpoint: str | None = None


def locations(issuer: str) -> tuple[str, str]:
    """Where metadata may be: RFC 8414 3.1 inserts before the path, OpenID Connect appends to it."""
    parts = urlsplit(issuer)
    host, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    return (
        f"{host}/.well-known/oauth-authorization-server{path}",
        f"{host}{path}/.well-known/openid-configuration",
    )


def read_metadata(document: dict[str, Any], issuer: str) -> Metadata:
    """What the document says; raises DiscoveryFailedError where it must not or cannot be used."""
    if document["issuer"] != issuer:
        # RFC 8414 3.3: exactly, or one issuer could send our secrets to another's endpoints.
        raise DiscoveryFailedError(
            f"The metadata found for the issuer {issuer} names another issuer: "
            "set issuer exactly as the server writes it, slash for slash."
        )
    token_endpoint = document.get("token_endpoint")
    if not isinstance(token_endpoint, str):
        raise DiscoveryFailedError(
            f"The metadata of the issuer {issuer} has no token endpoint: set token_endpoint."
        )
    grants = document.get("grant_types_supported")
    if isinstance(grants, list) and EXCHANGE_GRANT not in grants:
        _logger.warning(
            "The issuer %s does not list token exchange among its grant types; "
            "some servers that do it do not, so it is tried all the same.",
            issuer,
        )
    optional = ("revocation_endpoint", "jwks_uri", "introspection_endpoint")
    found = {name: document[name] for name in optional if isinstance(document.get(name), str)}
    return Metadata(token_endpoint, **{name: found.get(name) for name in optional})
