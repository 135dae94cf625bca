"""The issuer's public keys (RFC 7517), kept for a while and fetched again when one is unknown."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import Key, import_key

from blocks.oauth.errors import OAuthError, UnusableReplyError
from blocks.oauth.shared_fetch import SharedFetches

_logger = logging.getLogger(__name__)

KEPT_FOR = timedelta(hours=1)
"""How long keys are believed before they are fetched again, so that a withdrawn one ends."""

FETCHED_AT_MOST_EVERY = timedelta(seconds=30)
"""Anybody can send a token that names an unknown key: the issuer shall not be asked for each."""

KNOWN_FOR = timedelta(days=1)
"""How long keys outlast an issuer that does not tell them any more; then nobody is believed."""

WAITED_FOR = 5.0
"""Seconds that a caller waits for fresh keys where older ones are known."""

MOST_KEYS = 100
"""Of one issuer; more are a mistake or an attack, and to read each takes time."""


@dataclass(frozen=True)
class KeySet:
    """The keys as they were fetched last, by their ids."""

    keys: dict[str | None, Key]
    fetched_at: datetime
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
        known = self._still_known()
        key = known.find(key_id) if known else None
        if known is None or known.should_be_asked_for(self.now(), key):
            key = (await self._fetched(known)).find(key_id)
        return key

    async def _fetched(self, known: KeySet | None) -> KeySet:
        """The keys as they are now; those known where the issuer does not tell in time."""
        try:
            return await _fetches.get(
                self.url, self._fetch_anew, within=WAITED_FOR if known else None
            )
        except TimeoutError:
            if known is None:
                raise
        # Nobody else waits for it in the next seconds. The fetch goes on, and may yet be done.
        if _known.get(self.url) is known:
            _known[self.url] = self._as_away(known)
        return known

    async def _fetch_anew(self) -> KeySet:
        """The keys as they are now; those known before where the issuer cannot tell."""
        try:
            now = self.now()
            fetched = KeySet(_usable(await self.fetch()), now, now)
        except OAuthError as failure:
            known = self._still_known()
            if known is None:
                raise
            if not known.is_away:
                _logger.warning("New keys are not available, known ones go on: %s", failure)
            fetched = self._as_away(known)
        _known[self.url] = fetched
        return fetched

    def _still_known(self) -> KeySet | None:
        known = _known.get(self.url)
        return known if known and self.now() - known.fetched_at < KNOWN_FOR else None

    def _as_away(self, known: KeySet) -> KeySet:
        return replace(known, asked_at=self.now(), is_away=True)


def _usable(document: dict[str, Any]) -> dict[str | None, Key]:
    """The keys that sign; unknown kinds are passed over (RFC 7517 5).

    Raises UnusableReplyError where there are none: whatever answers there, it is not the issuer.
    """
    entries = document.get("keys")
    usable: dict[str | None, Key] = {}
    for entry in entries[:MOST_KEYS] if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("use", "sig") == "sig" and _is_public(entry):
            try:
                usable[entry.get("kid")] = import_key(entry)
            except (JoseError, ValueError, TypeError, KeyError):
                continue
    if not usable:
        raise UnusableReplyError(
            "The issuer's key set has no key to verify a token by: check issuer, or set jwks_uri."
        )
    return usable


def _is_public(entry: dict[str, Any]) -> bool:
    return entry.get("kty") in ("RSA", "EC", "OKP")
