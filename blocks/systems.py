"""The outside systems of this installation, as its saved blocks describe them."""

import asyncio
import time
from typing import TypeVar
from weakref import WeakKeyDictionary

from prefect.blocks.core import Block

from blocks.oauth import OAuthServer
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
    try:
        return await kind.aload(DOCUMENT)
    except ValueError:
        # "from None": a validation error quotes the document, and that holds the client's secret.
        raise NotSavedError(
            f"There is no usable {kind.get_block_type_slug()} block named {DOCUMENT!r}:"
            " save one in the Prefect UI under Blocks, or see the README."
        ) from None
