"""What is known of a grant."""

from datetime import datetime, timedelta
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, SecretStr

from blocks.oauth import Tokens

ENOUGH_LIFE = timedelta(seconds=2)
"""An access token with less life left than this may expire on its way to the Orders API."""


MOST_TO_REVOKE = 20
"""Replaced grants that one remembers: who configures on and on fills no database."""


def has_enough_life(expires_at: datetime | None, now: datetime) -> bool:
    """Whether an access token that expires then is of use at `now`."""
    return expires_at is not None and expires_at - now > ENOUGH_LIFE


class GrantError(Exception):
    """What is stored of a binding's grant cannot be used."""


class GrantMissingError(GrantError):
    """No grant is stored for this binding."""


class Replaced(BaseModel):
    """A grant that another has taken the place of, until it is revoked."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    refresh_token: SecretStr
    at: AwareDatetime
    """When it was replaced."""


class Grant(BaseModel):
    """One binding's OAuth grant. Tokens are only ever in memory and in the Secret block."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    refresh_token: SecretStr
    access_token: SecretStr | None = None
    expires_at: datetime | None = None
    refreshed_at: AwareDatetime | None = None
    """When it was last refreshed; None as long as it is as the exchange gave it."""
    journey_id: str | None = None
    """The configure run that obtained this grant: it does not exchange again after a crash."""
    asked_at: AwareDatetime | None = None
    """When that run was made, by Prefect's clock: what was asked for earlier never replaces it."""
    lost_because: str | None = None
    """Why the server refused the refresh token for good; it is not sent again then."""
    over_since: AwareDatetime | None = None
    """Since when nobody needs it: it counts as missing, and is kept only until it is revoked."""
    to_revoke: tuple[Replaced, ...] = ()
    """What it has replaced: kept here, so that what stores the one cannot forget the other."""
    instead_of: Literal["nothing", "stopped"] | None = None
    """What was scheduled before: no deployment, or one that is paused. None once the configuration
    is done, or if the nights went on before: then nothing is undone where it ends half-way."""

    @classmethod
    def from_exchange(
        cls, tokens: Tokens, *, journey_id: str | None = None, asked_at: datetime | None = None
    ) -> Self:
        """The grant that an exchange gave; OAuthServer.exchange never returns one without."""
        if tokens.refresh_token is None:
            raise GrantError("The exchange gave no refresh token: none would outlive the caller.")
        return cls(
            refresh_token=tokens.refresh_token,
            access_token=tokens.access_token,
            expires_at=tokens.expires_at,
            journey_id=journey_id,
            asked_at=asked_at,
        )

    def replacing(self, other: "Grant | None", now: datetime, *, revoke: bool) -> "Grant":
        """This grant as it is stored in place of the other one, which is `revoke`d then."""
        if other is None:
            return self
        update: dict[str, object] = {"instead_of": self.instead_of or other.instead_of}
        if revoke:
            dead, at = other.lost_because is not None, other.over_since or now
            own = () if dead else (Replaced(refresh_token=other.refresh_token, at=at),)
            update["to_revoke"] = (*other.to_revoke, *own)[-MOST_TO_REVOKE:]
        return self.model_copy(update=update)

    def with_duties_of(self, stored: "Grant") -> "Grant":
        """This grant with what is left to do according to the stored one."""
        duties = {"to_revoke": stored.to_revoke, "instead_of": stored.instead_of}
        return self.model_copy(update=duties)

    def over(self, now: datetime) -> "Grant":
        """This grant once nobody needs it; nothing is left to do but to revoke it."""
        update = {"over_since": now, "access_token": None, "instead_of": None}
        return self.model_copy(update=update)

    def usable_access_token(self, now: datetime) -> SecretStr | None:
        """The access token, if it has enough life left at `now`."""
        return self.access_token if has_enough_life(self.expires_at, now) else None

    def rotated(self, tokens: Tokens, now: datetime) -> "Grant":
        """The grant after a refresh: a reply without a refresh token keeps the old (RFC 6749 6)."""
        return self.model_copy(
            update={
                "refresh_token": tokens.refresh_token or self.refresh_token,
                "access_token": tokens.access_token,
                "expires_at": tokens.expires_at,
                "refreshed_at": now,
            }
        )

    def lost(self, reason: str) -> "Grant":
        """The grant after its refresh token was refused for good: nothing of it is of use."""
        return self.model_copy(update={"lost_because": reason, "access_token": None})
