"""The caller's access token on its way to the configure flow: a short-lived Secret block.

Prefect stores and shows flow parameters in clear, so a token never is one: the parameter is the
name of this block. The configure flow deletes it right after the exchange, whatever the outcome.
"""

import asyncio
import json
from contextlib import suppress
from uuid import uuid4

import httpx
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from pydantic import SecretStr

from blocks.lease import OwnershipUnknownError

WITHDRAWAL_PAUSES = (0, 1, 2, 4, 8, 15, *[30] * 18)
"""Seconds between attempts to delete a token that nobody will use: about ten minutes in all."""

PROMPT = 2.0
"""Seconds in which a withdrawal is usually done; it goes on in the background if it is not."""

logger = get_logger("caller_token")
_withdrawals: set[asyncio.Task[None]] = set()


class CallerTokenError(Exception):
    """The caller's access token cannot be read."""


def new_name() -> str:
    """A name that no other block has."""
    return f"caller-{uuid4()}"


async def hand_over(token: SecretStr, name: str | None = None) -> str:
    """Store the caller's access token for one configure run; returns the block's name.

    Raises CallerTokenError if Prefect does not keep it.
    """
    name = name or new_name()
    # Of an object, because Secret.get() would turn a bare token of only digits into a number; but
    # as text, because Prefect shows an object's members in clear, even those of a Secret block.
    block: Secret[str] = Secret(value=json.dumps({"access_token": token.get_secret_value()}))
    try:
        await block.asave(name, overwrite=True)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
    else:
        return name
    # Raised out here, because Prefect's error holds the request and quotes it in its text.
    raise CallerTokenError(
        f"Prefect refused to keep your access token in the block {name!r} with status {status}:"
        " see the Prefect server's log."
    )


async def take(name: str) -> SecretStr:
    """The caller's access token; raises CallerTokenError where there is none.

    A block made in the Prefect UI holds the bare token: that is understood as well.
    """
    async with get_client() as client:
        try:
            document = await client.read_block_document_by_name(name, block_type_slug="secret")
        except ObjectNotFound:
            raise CallerTokenError(
                f"There is no Secret block named {name!r}: hand your access token over again."
            ) from None
    token = _token_in(document.data["value"])
    if not isinstance(token, str) or not token.strip():
        raise CallerTokenError(f"The Secret block {name!r} holds no access token.")
    return SecretStr(token.strip())


async def discard(name: str) -> None:
    """Delete the block; one that is gone already is fine."""
    async with get_client() as client:
        try:
            document = await client.read_block_document_by_name(name, block_type_slug="secret")
            await client.delete_block_document(document.id)
        except ObjectNotFound:
            return


async def withdraw(name: str) -> None:
    """Delete the block of a run that was not started, for as long as Prefect's API may be away.

    Returns as soon as that is done, and in any case soon: then it goes on in the background.
    """
    withdrawal = asyncio.create_task(_discard_when_possible(name))
    _withdrawals.add(withdrawal)
    withdrawal.add_done_callback(_withdrawals.discard)
    await asyncio.wait([withdrawal], timeout=PROMPT)


async def _discard_when_possible(name: str) -> None:
    for pause in WITHDRAWAL_PAUSES:
        await asyncio.sleep(pause)
        with suppress(httpx.HTTPError, OwnershipUnknownError):
            return await discard(name)
    logger.error("The Secret block %r holds a caller's token and is of no use: delete it.", name)
    return None


def _token_in(value: object) -> object:
    if isinstance(value, str):
        with suppress(ValueError):
            parsed = json.loads(value)
            value = parsed if isinstance(parsed, dict) else value
    return value.get("access_token") if isinstance(value, dict) else value
