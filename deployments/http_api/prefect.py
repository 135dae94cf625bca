"""Prefect's API within bounds: a request that it does not serve soon is answered with 503."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prefect.context import AsyncClientContext
from prefect.settings import (
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    temporary_settings,
)


@dataclass(frozen=True)
class Bounds:
    """How long one request may keep Prefect busy.

    Attributes:
        seconds: For all of it.
        retries: Of each call, 2, 4 and 8 seconds later: SQLite is often locked for a moment.
            A Prefect that cannot be reached is not asked again.
    """

    seconds: float
    retries: int


READ = Bounds(seconds=4, retries=1)
WRITE = Bounds(seconds=15, retries=3)


@asynccontextmanager
async def prefect_at_hand(bounds: Bounds = READ) -> AsyncIterator[None]:
    """One client of Prefect's for all that is asked of it here.

    Raises TimeoutError beyond the bounds, and httpx.HTTPError as Prefect's client does.
    """
    settings = {
        PREFECT_CLIENT_MAX_RETRIES: bounds.retries,
        # One request more each time, and a Prefect that is away would be no HTTP error any more.
        PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False,
    }
    with temporary_settings(settings):
        async with asyncio.timeout(bounds.seconds), AsyncClientContext.get_or_create():
            yield
