"""The Secret block that keeps a binding's grant: the only code that reads and writes it."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from uuid import UUID

import httpx
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from pydantic import ValidationError

from blocks import lock
from blocks.binding import Binding
from blocks.grant.model import Grant, GrantError, GrantMissingError
from blocks.lease import OwnershipUnknownError
from blocks.ownership import require_lease
from blocks.together import Together

PREFIX = "grant-"
"""How the names of the Secret blocks begin that hold grants."""

STORE_PAUSES = (0.5, 1, 2, 4, 8, *[15] * 5_000)
"""Seconds between attempts to store a token that is nowhere else: for almost a day."""

ATTEMPT_SECONDS = 15
"""The longest that one of these attempts may take."""

_TROUBLE = (httpx.HTTPError, TimeoutError, OwnershipUnknownError)

logger = get_logger("grant")


@dataclass(frozen=True)
class Document:
    """A grant as it was found in its Secret block."""

    binding: Binding
    id: UUID
    grant: Grant

    async def overwrite(self, grant: Grant) -> None:
        """Store the grant in place of this one: for its only copy is in memory, by all means.

        Goes on for as long as Prefect's API may be away. Raises what `try_to_overwrite` raises.
        """
        for pause in STORE_PAUSES:
            if await self.try_to_overwrite(grant):
                return
            await asyncio.sleep(pause)
        raise self._not_stored()

    async def try_to_overwrite(self, grant: Grant) -> bool:
        """The same, once; returns whether the grant is known to be stored.

        Raises OwnershipLostError if this process was given up meanwhile, so that somebody else may
        have refreshed, and GrantError if Prefect refuses for good.
        """
        update = BlockDocumentUpdate(data={"value": _to_json(grant)}, merge_existing_data=False)
        try:
            # Prefect's client would pause for up to half a minute between attempts of its own.
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await require_lease()
                async with get_client() as client:
                    await client.update_block_document(self.id, update)
        except (ObjectNotFound, *_TROUBLE) as error:
            if not _is_refused(error) and not await self._is_gone(error):
                trouble = _trouble(error)
                logger.warning("The grant of %s is not stored yet: %s", self.binding, trouble)
                return False
        else:
            return True
        # Raised out here, because Prefect's error holds the request, and with it the token.
        raise self._not_stored()

    def _not_stored(self) -> GrantError:
        return GrantError(
            f"Prefect did not store the refreshed OAuth grant of {self.binding}: configure it"
            " again."
        )

    async def _is_gone(self, error: Exception) -> bool:
        """Whether the block was deleted: a gateway answers 404, too, while Prefect is replaced."""
        if not isinstance(error, ObjectNotFound):
            return False
        try:
            return _name(self.binding) not in await _read_several([_name(self.binding)])
        except (*_TROUBLE, ValueError):
            return False

    async def remove(self) -> None:
        """Delete the block; one that is gone already is fine."""
        async with get_client() as client:
            try:
                await client.delete_block_document(self.id)
            except ObjectNotFound:
                return


async def read(binding: Binding) -> Document:
    """The binding's grant; raises GrantMissingError where none is stored, or one that is over."""
    found = await read_even_over(binding)
    if found.grant.over_since:
        raise _missing(binding)
    return found


async def read_even_over(binding: Binding) -> Document:
    """The same, also of one that is kept only until it is revoked."""
    document = await _together.get(_name(binding)) or await _read_alone(binding)
    try:
        grant = Grant.model_validate_json(document.data["value"])
        return Document(binding, document.id, grant)
    except ValidationError:
        pass
    # Raised out here, because a validation error holds what it could not read.
    raise GrantMissingError(
        f"What is stored as the OAuth grant of {binding} cannot be read: configure it again."
    )


async def read_several(bindings: Sequence[Binding]) -> dict[str, Grant]:
    """The grants of these bindings, 200 at most, by their slugs; without those that are unreadable.

    Also those that are over. Raises httpx.HTTPError where Prefect's API is away.
    """
    try:
        found = await _read_several([_name(binding) for binding in bindings])
    except (httpx.HTTPStatusError, ValueError, RecursionError) as error:
        if not _is_of_what_was_read(error):
            raise
        # One that Prefect cannot answer makes it fail for all that are asked for with it.
        if len(bindings) <= 1:
            return {}
        middle = len(bindings) // 2
        return await read_several(bindings[:middle]) | await read_several(bindings[middle:])
    readable = {}
    for name, document in found.items():
        with suppress(ValidationError):
            grant = Grant.model_validate_json(document.data["value"])
            readable[name.removeprefix(PREFIX)] = grant
    return readable


async def _read_alone(binding: Binding) -> BlockDocument:
    async with get_client() as client:
        try:
            return await client.read_block_document_by_name(
                _name(binding), block_type_slug="secret"
            )
        except ObjectNotFound:
            raise _missing(binding) from None


def _missing(binding: Binding) -> GrantMissingError:
    return GrantMissingError(f"No OAuth grant is stored for {binding}: configure it (again).")


async def _read_several(names: list[str]) -> dict[str, BlockDocument]:
    wanted = {
        "block_documents": {"name": {"any_": names}},
        "block_types": {"slug": {"any_": ["secret"]}},
        "include_secrets": True,
    }
    async with get_client() as client:
        response = await client.request("POST", "/block_documents/filter", json=wanted)
    found = BlockDocument.model_validate_list(response.json())
    return {document.name: document for document in found if document.name}


_together = Together(_read_several, most=50)


async def write(binding: Binding, grant: Grant) -> None:
    """Store a grant that another attempt could store, whether or not there was one before.

    Raises GrantError if Prefect refuses it for good, and httpx.HTTPError where it is away.
    """
    await require_lease()
    trouble: Exception
    try:
        block: Secret[str] = Secret(value=_to_json(grant))
        await block.asave(_name(binding), overwrite=True)
    except httpx.HTTPStatusError as error:
        trouble = httpx.TransportError(_trouble(error))
        if _is_refused(error):
            trouble = GrantError(
                f"The OAuth grant of {binding} is not stored ({_trouble(error)}): look why into the"
                " Prefect server's log, then configure this batch again."
            )
    else:
        return
    # Raised out here, because Prefect's error holds the request and quotes it in its text.
    raise trouble


def only_writer(
    binding: Binding, patience: float | None = None, *, is_once_only: bool = False
) -> AbstractAsyncContextManager[None]:
    """Be the only one on all machines that changes the binding's grant: see `blocks.lock`."""
    return lock.only_holder(binding.lock, patience=patience, is_once_only=is_once_only)


def _is_of_what_was_read(error: Exception) -> bool:
    """Whether what was asked for may hold what Prefect, or its client, cannot read."""
    failed = httpx.codes.INTERNAL_SERVER_ERROR
    return not isinstance(error, httpx.HTTPStatusError) or error.response.status_code == failed


def _is_refused(error: Exception) -> bool:
    """Whether Prefect itself will not have it: others only stand before it."""
    refused = {httpx.codes.BAD_REQUEST, httpx.codes.CONFLICT, httpx.codes.UNPROCESSABLE_ENTITY}
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in refused


def _trouble(error: Exception) -> str:
    # What Prefect's API answers to a refused write may quote what was to be written: no more than
    # its status is shown.
    if isinstance(error, httpx.HTTPStatusError):
        return f"Prefect answers {error.response.status_code}"
    return f"Prefect is not reached ({type(error).__name__})"


def _name(binding: Binding) -> str:
    return f"{PREFIX}{binding.slug}"


def _to_json(grant: Grant) -> str:
    # Text, because Prefect shows the members of an object in clear, even those of a Secret block.
    # Of an object, because Secret.get() would turn a bare token of only digits into a number.
    members = {
        "refresh_token": grant.refresh_token.get_secret_value(),
        "access_token": grant.access_token and grant.access_token.get_secret_value(),
        "expires_at": grant.expires_at and grant.expires_at.isoformat(),
        "refreshed_at": grant.refreshed_at and grant.refreshed_at.isoformat(),
        "journey_id": grant.journey_id,
        "asked_at": grant.asked_at and grant.asked_at.isoformat(),
        "lost_because": grant.lost_because,
        "over_since": grant.over_since and grant.over_since.isoformat(),
        "to_revoke": [
            {"refresh_token": it.refresh_token.get_secret_value(), "at": it.at.isoformat()}
            for it in grant.to_revoke
        ],
        "instead_of": grant.instead_of,
    }
    return json.dumps(members)
