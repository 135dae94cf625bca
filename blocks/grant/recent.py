"""What this process got of its latest refresh of each grant: read again from memory."""

from dataclasses import dataclass
from datetime import datetime

from cachetools import LRUCache
from pydantic import SecretStr

from blocks.binding import Binding
from blocks.grant.model import Grant


@dataclass(frozen=True)
class Refreshed:
    """What a refresh gave, without the refresh token."""

    access_token: SecretStr | None
    expires_at: datetime | None
    refreshed_at: datetime | None


_recent: LRUCache[Binding, Refreshed] = LRUCache(10_000)


def of(binding: Binding) -> Refreshed | None:
    """What this process remembers of the binding's grant."""
    return _recent.get(binding)


def remember(binding: Binding, fresh: Grant) -> None:
    """Remember what a refresh of this process gave: it is stored."""
    _recent[binding] = Refreshed(fresh.access_token, fresh.expires_at, fresh.refreshed_at)


def forget(binding: Binding) -> None:
    """Remember nothing of the binding's grant: another has taken its place, or none."""
    _recent.pop(binding, None)


def was_refreshed(binding: Binding, *, since: datetime) -> bool:
    """Whether this process knows that it has refreshed the grant since then; it asks nobody."""
    known = _recent.get(binding)
    return known is not None and known.refreshed_at is not None and known.refreshed_at >= since
