"""The stored OAuth grant of a binding: the only code that touches its Secret block.

A refresh token that rotates is a read-modify-write of one stored value. Two writers at once look
like theft to the server, which then revokes the whole grant (RFC 9700 4.14.2). Hence one writer at
a time across all machines, and the rotated token is stored before anything is done with the access
token that came with it.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

import httpx
from anyio import CancelScope
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from blocks import clock, lock
from blocks.binding import Binding
from blocks.oauth import GrantLostError, OAuthError, OAuthServer, Tokens

STORE_PAUSES = (0.5, 1, 2, 4, 8, *[15] * 80)
"""Seconds between attempts to store a rotated token: about twenty minutes in all."""

ENOUGH_LIFE = timedelta(seconds=2)
"""An access token with less life left than this may expire on its way to the Orders API."""


logger = get_logger("grant")


class GrantError(Exception):
    """What is stored of a binding's grant cannot be used."""


class GrantMissingError(GrantError):
    """No grant is stored for this binding."""


class Grant(BaseModel):
    """One binding's OAuth grant. Tokens are only ever in memory and in the Secret block."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    refresh_token: SecretStr
    access_token: SecretStr | None = None
    expires_at: datetime | None = None
    journey_id: str | None = None
    """The configure run that obtained this grant: it does not exchange again after a crash."""
    lost_because: str | None = None
    """Why the server refused the refresh token for good; it is not sent again then."""

    @classmethod
    def from_exchange(cls, tokens: Tokens, *, journey_id: str | None = None) -> Self:
        """The grant that an exchange gave; OAuthServer.exchange never returns one without."""
        if tokens.refresh_token is None:
            raise GrantError("The exchange gave no refresh token: none would outlive the caller.")
        return cls(
            refresh_token=tokens.refresh_token,
            access_token=tokens.access_token,
            expires_at=tokens.expires_at,
            journey_id=journey_id,
        )

    def usable_access_token(self, now: datetime) -> SecretStr | None:
        """The access token, if it has enough life left at `now`."""
        alive = self.expires_at is not None and self.expires_at - now > ENOUGH_LIFE
        return self.access_token if alive else None

    def rotated(self, tokens: Tokens) -> "Grant":
        """The grant after a refresh: a reply without a refresh token keeps the old (RFC 6749 6)."""
        return self.model_copy(
            update={
                "refresh_token": tokens.refresh_token or self.refresh_token,
                "access_token": tokens.access_token,
                "expires_at": tokens.expires_at,
            }
        )

    def lost(self, reason: str) -> "Grant":
        """The grant after its refresh token was refused for good: nothing of it is of use."""
        return self.model_copy(update={"lost_because": reason, "access_token": None})


async def load(binding: Binding) -> Grant:
    """The binding's grant; raises GrantMissingError where none is stored."""
    grant, _ = await _read(binding)
    return grant


async def journey_of(binding: Binding) -> str | None:
    """The configure run that obtained the stored grant, if there is one."""
    try:
        return (await load(binding)).journey_id
    except GrantMissingError:
        return None


async def store(binding: Binding, grant: Grant) -> Grant | None:
    """Store a newly exchanged grant and return the one that it replaces, if any."""
    async with _only_writer(binding):
        try:
            replaced = await load(binding)
        except GrantMissingError:
            replaced = None
        try:
            block: Secret[str] = Secret(value=_to_json(grant))
            await block.asave(_stored_name(binding), overwrite=True)
        except httpx.HTTPStatusError as error:
            trouble = httpx.TransportError(_trouble(error))
        else:
            return replaced
    # Raised out here, because Prefect's error holds the request and quotes it in its text.
    raise trouble


async def refresh(
    binding: Binding, server: OAuthServer, *, unless: Callable[[Grant], bool] | None = None
) -> Grant:
    """Refresh the grant and store what came back before returning it.

    `unless` looks at what is stored once this is the only writer: another run may have refreshed
    in the meantime, and a refresh token is not spent without need.

    Raises what OAuthServer.refresh raises. The stored grant stays as it is then, except that a
    token refused for good is marked, and refused here from then on without asking the server.
    """
    async with _only_writer(binding):
        grant, document_id = await _read(binding)
        if unless and unless(grant):
            return grant
        if grant.lost_because:
            raise GrantLostError(grant.lost_because)
        # A worker that is told to stop in between would take the rotated token with it.
        with CancelScope(shield=True):
            try:
                fresh = grant.rotated(await server.refresh(grant.refresh_token))
            except GrantLostError as lost:
                await _overwrite(binding, document_id, grant.lost(str(lost)))
                raise
            await _overwrite(binding, document_id, fresh)
        return fresh


async def access_token(
    binding: Binding, server: OAuthServer, *, rejected: SecretStr | None = None
) -> SecretStr:
    """An access token with enough life left, refreshed if need be; never the rejected one."""

    def is_usable(grant: Grant) -> bool:
        return grant.usable_access_token(clock.now()) not in (None, rejected)

    grant = await load(binding)
    if not is_usable(grant):
        grant = await refresh(binding, server, unless=is_usable)
    if grant.access_token is None:
        raise GrantError(f"The OAuth server refreshed {binding} without giving an access token.")
    return grant.access_token


async def delete(binding: Binding) -> Grant | None:
    """Forget the binding's grant; returns what was stored, so that it can be revoked."""
    async with _only_writer(binding), get_client() as client:
        try:
            grant, document_id = await _read(binding)
            await client.delete_block_document(document_id)
        except (GrantMissingError, ObjectNotFound):
            return None
    return grant


async def revoke(grant: Grant | None, server: OAuthServer) -> None:
    """Revoke a grant that is no longer stored, as far as the server lets us."""
    if grant is None or grant.lost_because:
        return
    try:
        await server.revoke(grant.refresh_token)
    except OAuthError as error:
        # The token is forgotten here either way; it dies at the server when its life is over.
        logger.warning("The grant was not revoked: %s", error)


def _only_writer(binding: Binding) -> AbstractAsyncContextManager[None]:
    return lock.only_holder(f"lock-{binding.slug}")


async def _read(binding: Binding) -> tuple[Grant, UUID]:
    async with get_client() as client:
        try:
            document = await client.read_block_document_by_name(
                _stored_name(binding), block_type_slug="secret"
            )
        except ObjectNotFound:
            raise GrantMissingError(
                f"No OAuth grant is stored for {binding}: configure it (again)."
            ) from None
    try:
        return Grant.model_validate_json(document.data["value"]), document.id
    except ValidationError:
        pass
    # Raised out here, because a validation error holds what it could not read.
    raise GrantMissingError(
        f"What is stored as the OAuth grant of {binding} cannot be read: configure it again."
    )


async def _overwrite(binding: Binding, document_id: UUID, grant: Grant) -> None:
    """Store the grant, for as long as Prefect's API may be away: its only copy is in memory."""
    update = BlockDocumentUpdate(data={"value": _to_json(grant)}, merge_existing_data=False)
    for pause in STORE_PAUSES:
        try:
            # Prefect's client would pause for up to half a minute between attempts of its own.
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                async with get_client() as client:
                    await client.update_block_document(document_id, update)
        except ObjectNotFound:
            break
        except httpx.HTTPError as error:
            if _is_final(error):
                break
            logger.warning("The grant of %s is not stored yet: %s", binding, _trouble(error))
            await asyncio.sleep(pause)
        else:
            return
    raise GrantError(
        f"Prefect did not store the refreshed OAuth grant of {binding}: configure it again."
    )


def _is_final(error: httpx.HTTPError) -> bool:
    return (
        isinstance(error, httpx.HTTPStatusError)
        and error.response.is_client_error
        and error.response.status_code not in {408, 425, 429}
    )


def _trouble(error: httpx.HTTPError) -> str:
    # What Prefect's API answers to a refused write may quote what was to be written: no more than
    # its status is shown.
    if isinstance(error, httpx.HTTPStatusError):
        return f"Prefect answers {error.response.status_code}"
    return f"Prefect is not reached ({type(error).__name__})"


def _stored_name(binding: Binding) -> str:
    return f"grant-{binding.slug}"


def _to_json(grant: Grant) -> str:
    # Text, because Prefect shows the members of an object in clear, even those of a Secret block.
    # Of an object, because Secret.get() would turn a bare token of only digits into a number.
    members = {
        "refresh_token": grant.refresh_token.get_secret_value(),
        "access_token": grant.access_token and grant.access_token.get_secret_value(),
        "expires_at": grant.expires_at and grant.expires_at.isoformat(),
        "journey_id": grant.journey_id,
        "lost_because": grant.lost_because,
    }
    return json.dumps(members)
