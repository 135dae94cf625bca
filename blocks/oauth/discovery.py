"""Where an issuer's endpoints are: authorization server metadata (RFC 8414), kept for a while."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from blocks.http import NotJsonError
from blocks.oauth.call import Attempt, Clock, Timeouts, call
from blocks.oauth.errors import DiscoveryFailedError, OAuthError, TransientOAuthError
from blocks.oauth.metadata import Metadata, locations, read_metadata
from blocks.oauth.operations import DISCOVERY
from blocks.oauth.shared_fetch import SharedFetches

KEPT_FOR = timedelta(hours=1)
"""How long an issuer's metadata is believed before it is fetched again."""

PATIENCE = 15.0
"""Seconds after which no further attempt to fetch a document begins, where none is known yet."""

ASKED_AGAIN_AFTER = timedelta(minutes=1)
"""How long an issuer that cannot tell is left alone where its metadata is known."""

WAITED_FOR = 5.0
"""Seconds that anybody waits for fresh metadata where older is known."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Known:
    metadata: Metadata
    until: datetime
    is_away: bool = False
    """Whether the issuer could not tell when it was asked last."""


_known: dict[str, _Known] = {}
_fetches: SharedFetches[Metadata] = SharedFetches()


async def discover(issuer: str, *, timeouts: Timeouts, clock: Clock) -> Metadata:
    """The issuer's metadata, from memory where it is fresh.

    What is known outlasts an issuer that cannot tell at the moment: endpoints seldom move, and
    nobody could close a batch for an outage of a document alone.

    Raises:
        DiscoveryFailedError: The issuer publishes none, or it is another issuer's.
        TransientOAuthError: The issuer cannot be asked at the moment, and never was before.
    """
    known = _known.get(issuer)
    if known is not None and clock.now() < known.until:
        return known.metadata
    fetch = partial(_fetch_anew, issuer, timeouts, clock)
    try:
        return await _fetches.get(issuer, fetch, within=WAITED_FOR if known else None)
    except TimeoutError:
        if known is None:
            raise
        return known.metadata


async def _fetch_anew(issuer: str, timeouts: Timeouts, clock: Clock) -> Metadata:
    known = _known.get(issuer)
    failure: OAuthError
    try:
        found = await _find(issuer, timeouts, clock, patience=0 if known else PATIENCE)
        failure = DiscoveryFailedError(
            f"No metadata is published for the issuer {issuer}: check issuer, or set"
            " token_endpoint."
        )
    except TransientOAuthError as error:
        found, failure = None, error
    if found is not None:
        _known[issuer] = _Known(found, clock.now() + KEPT_FOR)
        return found
    if known is None:
        raise failure
    if not known.is_away:
        _logger.warning("The issuer %s cannot tell now, what is known goes on: %s", issuer, failure)
    _known[issuer] = _Known(known.metadata, clock.now() + ASKED_AGAIN_AFTER, is_away=True)
    return known.metadata


async def _find(
    issuer: str, timeouts: Timeouts, clock: Clock, *, patience: float
) -> Metadata | None:
    for url in locations(issuer):
        document = await _fetch(url, timeouts, clock, patience)
        if document is not None:
            return read_metadata(document, issuer)
    return None


async def _fetch(
    url: str, timeouts: Timeouts, clock: Clock, patience: float
) -> dict[str, Any] | None:
    """The metadata document at this URL; None when there is none."""
    headers = {"Accept": "application/json"}
    try:
        document = await call(
            DISCOVERY,
            lambda: Attempt(timeouts.build("GET", url, headers), timeouts.whole),
            lambda reply, _: reply.json_object(),
            clock=clock,
            patience=patience,
        )
    except TransientOAuthError:
        raise
    except (OAuthError, NotJsonError):
        return None
    return document if "issuer" in document else None
