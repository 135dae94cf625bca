"""The outside systems of this installation, as its saved blocks describe them."""

import asyncio
import time
from typing import TypeVar
from weakref import WeakKeyDictionary

import httpx
from prefect.blocks.core import Block
from pydantic import ValidationError

from blocks.oauth import InsecureUrlError, OAuthServer
from blocks.orders import OrdersApi

DOCUMENT = "orders-batch"
"""The name under which both blocks are saved."""

KEPT_SECONDS = 30.0
"""So long a process goes on with what it read: the same for every tenant, and it seldom changes."""

AnyBlock = TypeVar("AnyBlock", bound=Block)

_kept: dict[type[Block], tuple[float, Block]] = {}
_reading: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


class NotSavedError(Exception):
    """A block that describes an outside system is missing or unusable."""


async def oauth_server() -> OAuthServer:
    """The OAuth server; raises NotSavedError."""
    return await _load(OAuthServer)


async def orders_api() -> OrdersApi:
    """The Orders API; raises NotSavedError."""
    return await _load(OrdersApi)


def forget() -> None:
    """Read the blocks again when they are needed next."""
    _kept.clear()


async def _load(kind: type[AnyBlock]) -> AnyBlock:
    # By one at a time: a thousand runs that begin together would read it a thousand times.
    async with _reading.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        read_at, block = _kept.get(kind, (-KEPT_SECONDS, None))
        if isinstance(block, kind) and time.monotonic() - read_at < KEPT_SECONDS:
            return block
        block = await _read(kind)
        _kept[kind] = (time.monotonic(), block)
        return block


async def _read(kind: type[AnyBlock]) -> AnyBlock:
    slug = kind.get_block_type_slug()
    try:
        return await kind.aload(DOCUMENT)
    except Exception as error:  # noqa: BLE001 - Prefect has no type of its own for what can be wrong
        # Prefect wraps both in a RuntimeError, its own API being away and a failed validation.
        causes = (error, error.__cause__)
        away = next((cause for cause in causes if isinstance(cause, httpx.HTTPError)), None)
        invalid = next((cause for cause in causes if isinstance(cause, ValidationError)), None)
    # Raised out here: a validation error holds the document, and that holds the client's secret.
    if away:
        raise away
    if invalid:
        faults = _faults(invalid, kind)
        raise NotSavedError(
            f"The {slug} block named {DOCUMENT!r} is saved but not valid ({faults}):"
            " mend it in the Prefect UI under Blocks and save it again, or see the README."
        )
    raise NotSavedError(
        f"There is no usable {slug} block named {DOCUMENT!r}:"
        " save one in the Prefect UI under Blocks, or see the README."
    )


def _faults(invalid: ValidationError, kind: type[Block]) -> str:
    """What is wrong, in our own words or by the name of the field; never with what it holds."""
    faults: dict[str, None] = {}
    for fault in invalid.errors(include_url=False, include_input=False):
        place = fault["loc"][0] if fault["loc"] else ""
        reason = fault.get("ctx", {}).get("error")
        # Of these kinds our own validators raise them, which quote no value. Others may: an
        # encoding error, for one, quotes what it could not encode.
        if type(reason) in {ValueError, InsecureUrlError}:
            faults[str(reason)] = None
        elif place in kind.model_fields:
            faults[str(place)] = None
    return "; ".join(faults) or "it is not what this version saves"
