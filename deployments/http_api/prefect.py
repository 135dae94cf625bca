"""Prefect's API within bounds: a request that it does not serve soon is answered with 503."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prefect.context import AsyncClientContext
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

READ_SECONDS = 4.0
WRITE_SECONDS = 20.0
"""A start is ten calls of Prefect's, and ending a binding asks the OAuth server as well."""


class Prefect:
    """One client at a time for all that a request asks of Prefect."""

    @asynccontextmanager
    async def at_hand(self, seconds: float = READ_SECONDS) -> AsyncIterator[None]:
        """Raises TimeoutError after so many seconds, and Prefect's own errors at once."""
        # Prefect's client would try again for minutes; once is for SQLite's moments of being
        # locked.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):
            async with asyncio.timeout(seconds), AsyncClientContext.get_or_create():
                yield
