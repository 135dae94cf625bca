"""Prefect's API within bounds: a request that it does not serve soon is answered with 503."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from weakref import WeakKeyDictionary

from prefect.context import AsyncClientContext, SettingsContext
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from deployments.prefect_client import shared_prefect_client

READ_SECONDS = 4.0
WRITE_SECONDS = 15.0
"""A start is ten calls of Prefect's, and ending a binding asks the OAuth server as well."""

RETRIES = 2
"""Of each call, after 2 and 4 seconds: SQLite is often locked for a moment. Left to itself,
Prefect's client tries for minutes."""


@dataclass(frozen=True)
class _Kept:
    """What is the same for all requests.

    Making it takes a tenth of a second, in which the event loop would serve nobody.
    """

    base: SettingsContext
    settings: SettingsContext
    client: AsyncClientContext

    @classmethod
    async def on(cls, base: SettingsContext) -> Self:
        """A client of Prefect's that is never closed, and the settings for it."""
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: RETRIES}):
            settings = SettingsContext.get() or base
            client = shared_prefect_client()
            await client.client.__aenter__()
        return cls(base, settings, client)


_kept: WeakKeyDictionary[asyncio.AbstractEventLoop, _Kept] = WeakKeyDictionary()


@asynccontextmanager
async def prefect_at_hand(seconds: float = READ_SECONDS) -> AsyncIterator[None]:
    """One client of Prefect's for all that is asked of it here.

    Raises TimeoutError after so many seconds, and httpx.HTTPError as Prefect's client does.
    """
    kept = await _kept_here()
    # Copies, because a context can be entered once only.
    with kept.settings.model_copy(), kept.client.model_copy():
        async with asyncio.timeout(seconds):
            yield


async def _kept_here() -> _Kept:
    loop, base = asyncio.get_running_loop(), SettingsContext.get()
    if base is None:
        raise RuntimeError("Prefect's settings are not loaded.")
    kept = _kept.get(loop)
    if kept is None or kept.base is not base:
        kept = _kept[loop] = await _Kept.on(base)
    return kept
