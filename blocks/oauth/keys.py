"""The issuer's public keys (RFC 7517), kept for a while and fetched again when one is unknown."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import Key, import_key

from blocks.oauth.errors import RedirectedError, TransientOAuthError, UnusableReplyError
from blocks.oauth.shared_fetch import SharedFetches

_logger = logging.getLogger(__name__)

KEPT_FOR = timedelta(hours=1)
"""How long keys are believed before they are fetched again, so that a withdrawn one ends."""

FETCHED_AT_MOST_EVERY = timedelta(seconds=30)
"""Anybody can send a token that names an unknown key: the issuer shall not be asked for each."""


@dataclass(frozen=True)
class KeySet:
    """The keys as they were fetched last, by their ids."""

    keys: dict[str | None, Key]
    asked_at: datetime
    is_away: bool = False
    """Whether the issuer could not tell when it was asked."""

    def should_be_asked_for(self, now: datetime, key: Key | None) -> bool:
        """Whether it is time to fetch the keys again, this one having been found or not."""
        age = now - self.asked_at
        is_old = age >= KEPT_FOR or self.is_away or key is None
        return is_old and age >= FETCHED_AT_MOST_EVERY

    def find(self, key_id: str | None) -> Key | None:
        """The key of this id; without an id the only key there is."""
        if key_id is None and len(self.keys) == 1:
            return next(iter(self.keys.values()))
        return self.keys.get(key_id)


_known: dict[str, KeySet] = {}
_fetches: SharedFetches[KeySet] = SharedFetches()


@dataclass(frozen=True)
class KeySource:
    """Where an issuer publishes its keys, and how its document is fetched."""

    url: str
    fetch: Callable[[], Awaitable[dict[str, Any]]]
    now: Callable[[], datetime]

    async def find(self, key_id: str | None) -> Key | None:
        """The key of this id, or None; raises OAuthError where no keys can be had at all."""
        known = _known.get(self.url)
        key = known.find(key_id) if known else None
        if known is None or known.should_be_asked_for(self.now(), key):
            key = (await _fetches.get(self.url, self._fetch_anew)).find(key_id)
        return key

    async def _fetch_anew(self) -> KeySet:
        """The keys as they are now; those known before where the issuer cannot tell."""
        known = _known.get(self.url)
        try:
            fetched = KeySet(_usable(await self.fetch()), self.now())
        except (TransientOAuthError, UnusableReplyError, RedirectedError) as failure:
            if known is None:
                raise
            if not known.is_away:
                _logger.warning("New keys are not available, known ones go on: %s", failure)
            fetched = KeySet(known.keys, self.now(), is_away=True)
        _known[self.url] = fetched
        return fetched


def _usable(document: dict[str, Any]) -> dict[str | None, Key]:
    """The keys that sign; unknown kinds are passed over (RFC 7517 5)."""
    entries = document.get("keys")
    usable: dict[str | None, Key] = {}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("use", "sig") == "sig":
            try:
                usable[entry.get("kid")] = import_key(entry)
            except (JoseError, ValueError, TypeError, KeyError):
                continue
    return usable
