"""Where an issuer's endpoints are: authorization server metadata (RFC 8414), kept for a while."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from blocks.http import NotJsonError
from blocks.oauth.call import Attempt, Clock, Timeouts, call
from blocks.oauth.errors import DiscoveryFailedError, OAuthError, TransientOAuthError
from blocks.oauth.operations import DISCOVERY

EXCHANGE_GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"

KEPT_FOR = timedelta(hours=1)
"""How long an issuer's metadata is believed before it is fetched again."""

PATIENCE = 15.0
"""Seconds after which no further attempt to fetch a document begins."""

_logger = logging.getLogger(__name__)
_known: dict[str, tuple["Metadata", datetime]] = {}


@dataclass(frozen=True)
class Metadata:
    """What this project uses of an issuer's metadata."""

    token_endpoint: str
    revocation_endpoint: str | None
    jwks_uri: str | None = None
    introspection_endpoint: str | None = None


async def discover(issuer: str, *, timeouts: Timeouts, clock: Clock) -> Metadata:
    """The issuer's metadata, from memory where it is fresh.

    Raises:
        DiscoveryFailedError: The issuer publishes none, or it is another issuer's.
        TransientOAuthError: The issuer cannot be asked at the moment.
    """
    known, until = _known.get(issuer, (None, clock.now()))
    if known is not None and clock.now() < until:
        return known
    for url in locations(issuer):
        document = await _fetch(url, timeouts, clock)
        if document is not None:
            metadata = _read(document, issuer)
            _known[issuer] = (metadata, clock.now() + KEPT_FOR)
            return metadata
    raise DiscoveryFailedError(
        f"No metadata is published for the issuer {issuer}: check issuer, or set token_endpoint."
    )


def locations(issuer: str) -> tuple[str, str]:
    """Where metadata may be: RFC 8414 3.1 inserts before the path, OpenID Connect appends to it."""
    parts = urlsplit(issuer)
    host, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    return (
        f"{host}/.well-known/oauth-authorization-server{path}",
        f"{host}{path}/.well-known/openid-configuration",
    )


async def _fetch(url: str, timeouts: Timeouts, clock: Clock) -> dict[str, Any] | None:
    """The metadata document at this URL; None when there is none."""
    headers = {"Accept": "application/json"}
    try:
        document = await call(
            DISCOVERY,
            lambda: Attempt(timeouts.build("GET", url, headers), timeouts.whole),
            lambda reply, _: reply.json_object(),
            clock=clock,
            patience=PATIENCE,
        )
    except TransientOAuthError:
        raise
    except (OAuthError, NotJsonError):
        return None
    return document if "issuer" in document else None


def _read(document: dict[str, Any], issuer: str) -> Metadata:
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
