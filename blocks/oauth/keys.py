"""The issuer's public keys (RFC 7517), kept for a while and fetched again when one is unknown."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import Key, import_key

from blocks.oauth.errors import TransientOAuthError

KEPT_FOR = timedelta(hours=1)
"""How long keys are believed before they are fetched again, so that a withdrawn one ends."""

FETCHED_AT_MOST_EVERY = timedelta(seconds=30)
"""Anybody can send a token that names an unknown key: the issuer shall not be asked for each."""


@dataclass(frozen=True)
class KeySet:
    """The keys as they were fetched, by their ids."""

    keys: dict[str | None, Key]
    fetched_at: datetime

    def find(self, key_id: str | None) -> Key | None:
        """The key of this id; without an id the only key there is."""
        if key_id is None and len(self.keys) == 1:
            return next(iter(self.keys.values()))
        return self.keys.get(key_id)


_known: dict[str, KeySet] = {}


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
        age = self.now() - known.fetched_at if known else KEPT_FOR
        if age >= KEPT_FOR or (key is None and age >= FETCHED_AT_MOST_EVERY):
            known = await self._fetch_again(known)
            key = known.find(key_id)
        return key

    async def _fetch_again(self, known: KeySet | None) -> KeySet:
        try:
            fetched = KeySet(_usable(await self.fetch()), self.now())
        except TransientOAuthError:
            if known is None:
                raise
            fetched = KeySet(known.keys, self.now() - KEPT_FOR + FETCHED_AT_MOST_EVERY)
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
