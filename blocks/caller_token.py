"""The caller's access token on its way to the configure flow: a short-lived Secret block.

Prefect stores and shows flow parameters in clear, so a token never is one: the parameter is the
name of this block. Its name says that it may be taken for a caller's token, and deleted: nobody
else's Secret can be, whatever a run's parameters name.

The configure flow deletes it as soon as the grant that it was exchanged for is stored. Where that
does not come about, the flow deletes what was handed over for this one journey when it ends; what
somebody handed over by hand stays for the corrected run, for `KEPT`. A worker deletes what a flow
could not, and each a day after it was stored.
"""

import asyncio
import json
import re
from contextlib import suppress
from datetime import timedelta
from typing import TypeGuard
from uuid import uuid4

import httpx
from prefect.blocks.system import Secret
from prefect.logging import get_logger
from pydantic import SecretStr

from blocks import secret_blocks
from blocks.lease import OwnershipUnknownError
from blocks.prefect_refusal import why_prefect_refuses
from blocks.secret_blocks import StoredSecret

PREFIX = "caller-"
KEPT = timedelta(hours=1)
"""How long a token that was handed over by hand is kept if no journey is about to take it."""

TAKEN_WITHIN = timedelta(minutes=2)
"""How long the token of a journey's own is kept if no such journey is there to take it."""

KEPT_AT_MOST = timedelta(days=1)
"""After which a caller's token is deleted though a journey names it: some runs never end."""

MISSING = "TokenMissing"
"""The state of a journey that failed because there was no token for it."""

WITHDRAWAL_PAUSES = (0, 1, 2, 4, 8, 15, *[30] * 18)
"""Seconds between attempts to delete a token that nobody will use: about ten minutes in all."""

PROMPT = 2.0
"""Seconds in which a withdrawal is usually done; it goes on in the background if it is not."""

_NAME = re.compile(r"caller-[a-z0-9-]{1,100}")
_OF_A_JOURNEY = re.compile(r"caller-journey-[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")

logger = get_logger("caller_token")
_withdrawals: set[asyncio.Task[None]] = set()


class CallerTokenError(Exception):
    """The caller's access token cannot be kept, or not be read."""


class CallerTokenMissingError(CallerTokenError):
    """There is no Secret block of this name."""


def new_name() -> str:
    """A name for one journey's own token, that no other block has."""
    return f"{PREFIX}journey-{uuid4()}"


def name_by_hand(name: str) -> str:
    """The name under which somebody's token is kept; raises CallerTokenError for one that is none.

    With the prefix before it, unless it has that already.
    """
    full = name if name.startswith(PREFIX) else f"{PREFIX}{name}"
    if not is_callers(full) or is_of_a_journey(full):
        raise CallerTokenError(
            f"{name[:40]!r} cannot be the name of a block: use lower-case letters, digits and"
            " dashes, at most 100."
        )
    return full


def is_callers(name: object) -> TypeGuard[str]:
    """Whether a Secret block of this name holds a caller's token."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def is_of_a_journey(name: object) -> TypeGuard[str]:
    """Whether it holds what was handed over for one journey: nobody can use it after that."""
    return isinstance(name, str) and _OF_A_JOURNEY.fullmatch(name) is not None


def kept_for(stored: StoredSecret) -> timedelta:
    """How long a caller's token is kept that no journey is about to take."""
    return TAKEN_WITHIN if is_of_a_journey(stored.name) else KEPT


async def hand_over(token: SecretStr, name: str | None = None) -> str:
    """Store the caller's access token; returns the block's name, a journey's own unless given.

    Raises CallerTokenError if Prefect does not keep it, or has a block of that name: it may hold
    somebody else's token.
    """
    name = name or new_name()
    refusal: str | None
    # Of an object, because Secret.get() would turn a bare token of only digits into a number; but
    # as text, because Prefect shows an object's members in clear, even those of a Secret block.
    block: Secret[str] = Secret(value=json.dumps({"access_token": token.get_secret_value()}))
    try:
        await block.asave(name)
    except httpx.HTTPStatusError as error:
        refusal = why_prefect_refuses(error) or (
            f"Prefect refused to keep your access token in the block {name!r} with status"
            f" {error.response.status_code}: see the Prefect server's log."
        )
    except ValueError:
        refusal = f"There is a Secret block named {name!r} already: choose another name."
    else:
        return name
    # Raised out here, because Prefect's error holds the request and quotes it in its text.
    raise CallerTokenError(refusal)


async def take(name: object) -> SecretStr:
    """The caller's access token; raises CallerTokenError where there is none.

    A block made in the Prefect UI holds the bare token: that is understood as well.
    """
    if not is_callers(name):
        # Its text is not shown: people put the token itself there.
        raise CallerTokenError(
            "access_token_block is not the name of a block that holds a caller's token: such a name"
            f" begins with {PREFIX!r}, as `python -m deployments.hand_over` prints it."
        )
    try:
        value = await secret_blocks.read_value(name)
    except LookupError:
        raise CallerTokenMissingError(
            f"There is no Secret block named {name!r}: hand your access token over again."
        ) from None
    token = _token_in(value)
    if not isinstance(token, str) or not token.strip():
        raise CallerTokenError(f"The Secret block {name!r} holds no access token.")
    return SecretStr(token.strip())


async def discard(name: object) -> None:
    """Delete the block; one that is gone already, or that holds no caller's token, is fine."""
    if is_callers(name) and (stored := await secret_blocks.find(name)):
        await secret_blocks.delete(stored.id)


async def end_journey(name: object) -> None:
    """Delete the token of a journey that has ended, unless it was handed over by hand."""
    if is_of_a_journey(name):
        await withdraw(name)


async def withdraw(name: str) -> None:
    """Delete a token that nobody will take, for as long as Prefect's API may be away.

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
    logger.error("The Secret block %r is of no use and not deleted yet: a worker does it.", name)
    return None


def _token_in(value: object) -> object:
    if isinstance(value, str):
        with suppress(ValueError):
            parsed = json.loads(value)
            value = parsed if isinstance(parsed, dict) else value
    return value.get("access_token") if isinstance(value, dict) else value
