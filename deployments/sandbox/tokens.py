"""The tokens that the OAuth server gave out: who holds them and whether they still work."""

import secrets
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

from deployments.sandbox.keepsakes import Keepsakes
from deployments.sandbox.settings import Clock, SandboxSettings


class UnknownTokenError(Exception):
    """The token is not known, or no longer works."""


class ReusedTokenError(UnknownTokenError):
    """A refresh token was presented again after it had been replaced."""


REPEATED_WITHIN = timedelta(seconds=60)
"""So long a process may repeat a refresh whose reply was lost on the way."""


@dataclass(slots=True, eq=False)
class Grant:
    """What one exchange gave: all its tokens work until the grant is revoked."""

    tenant: str
    revoked: bool = False


@dataclass(slots=True)
class _RefreshToken:
    grant: Grant
    consumed_at: datetime | None = None
    consumed_by: str | None = None


@dataclass(frozen=True, slots=True)
class _AccessToken:
    grant: Grant
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Issued:
    """A fresh access token, and the refresh token if a new one comes with it."""

    access_token: str
    refresh_token: str | None


class TokenStore:
    """Every token by its value. Nothing here takes longer as tokens grow in number."""

    def __init__(self, settings: SandboxSettings, clock: Clock, keepsakes: Keepsakes) -> None:
        self._clock = clock
        self._keepsakes = keepsakes
        self._rotation = settings.rotation
        self._access_life = timedelta(seconds=settings.access_token_seconds)
        self._grace = timedelta(seconds=settings.grace_seconds)
        self._subjects: dict[str, str] = {}
        self._grants: defaultdict[str, list[Grant]] = defaultdict(list)
        self._refresh: dict[str, _RefreshToken] = {}
        self._access: OrderedDict[str, _AccessToken] = OrderedDict()

    def mint_subject_token(self, tenant: str) -> str:
        """A new caller token of the tenant, as if somebody had logged in."""
        token = self._random("st-")
        self._subjects[token] = tenant
        return token

    def subject_tenant(self, token: str | None) -> str | None:
        """Whose caller token this is."""
        return self._subjects.get(token or "")

    def refresh_tenant(self, token: str | None) -> str | None:
        """Whose refresh token this is or was."""
        grant = self.refresh_grant(token)
        return grant.tenant if grant else None

    def refresh_grant(self, token: str | None) -> Grant | None:
        """The grant that this refresh token belongs to, or belonged to."""
        known = self._refresh.get(token or "")
        return known.grant if known else None

    def is_presented_twice(self, token: str | None, process: str | None) -> bool:
        """Whether this refresh token was replaced before, not just now for the same process."""
        known = self._refresh.get(token or "")
        if known is None or known.consumed_at is None or None in {process, known.consumed_by}:
            return False
        is_repeated_in_time = self._clock() < known.consumed_at + REPEATED_WITHIN
        return known.consumed_by != process or not is_repeated_in_time

    def access_tenant(self, token: str) -> str:
        """Whose access token this is; raises UnknownTokenError unless it works now."""
        known = self._access.get(token)
        if known is None or known.grant.revoked or known.expires_at <= self._clock():
            raise UnknownTokenError
        return known.grant.tenant

    def exchange(self, subject_token: str) -> Issued:
        """Gives a new grant for a caller token; raises UnknownTokenError for any other."""
        tenant = self._subjects.get(subject_token)
        if tenant is None:
            raise UnknownTokenError
        grant = Grant(tenant)
        self._grants[tenant].append(grant)
        return Issued(self._new_access_token(grant), self._new_refresh_token(grant))

    def refresh(self, token: str, *, rotate: bool = True, process: str | None = None) -> Issued:
        """Gives a fresh access token for a refresh token that works.

        Args:
            token: The refresh token presented.
            rotate: False leaves the refresh token as it is, this once.
            process: Who presents it, if it says so.

        Raises:
            ReusedTokenError: The token was replaced before; its whole grant is revoked now.
            UnknownTokenError: The token was never given out, or its grant is revoked.
        """
        known = self._refresh.get(token)
        if known is None:
            raise UnknownTokenError
        if known.consumed_at is not None and not self._in_grace(known.consumed_at):
            known.grant.revoked = True
            raise ReusedTokenError
        if known.grant.revoked:
            raise UnknownTokenError
        if self._rotation == "none" or not rotate:
            return Issued(self._new_access_token(known.grant), None)
        if known.consumed_at is None:
            known.consumed_at, known.consumed_by = self._clock(), process
        return Issued(self._new_access_token(known.grant), self._new_refresh_token(known.grant))

    def revoke(self, token: str) -> None:
        """Revokes a refresh token's whole grant, or an access token alone (RFC 7009 2.1)."""
        if token in self._refresh:
            self._refresh[token].grant.revoked = True
        self._access.pop(token, None)

    def live_grants(self, tenant: str) -> int:
        """How many grants of the tenant are not revoked."""
        return sum(not grant.revoked for grant in self._grants.get(tenant, ()))

    def expire_access_tokens(self) -> None:
        """Ends the life of every access token given out so far."""
        self._access.clear()

    def _in_grace(self, consumed_at: datetime) -> bool:
        return self._rotation == "grace" and self._clock() < consumed_at + self._grace

    def _new_refresh_token(self, grant: Grant) -> str:
        token = self._random("rt-")
        self._refresh[token] = _RefreshToken(grant)
        return token

    def _new_access_token(self, grant: Grant) -> str:
        now = self._clock()
        # All live equally long, so the oldest expire first and are forgotten first.
        while self._access and next(iter(self._access.values())).expires_at <= now:
            self._access.popitem(last=False)
        token = self._random("at-")
        self._access[token] = _AccessToken(grant, now + self._access_life)
        return token

    def _random(self, prefix: str) -> str:
        return self._keepsakes.keep(prefix + secrets.token_urlsafe(24))
