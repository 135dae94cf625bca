"""SQLite's transactions: the one change that is made to Prefect's insides on the server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


def begin_as_writer() -> None:
    """On SQLite, ask for the right to write when a transaction begins, and wait for it."""
    AioSqliteConfiguration.begin_transaction = _begin_as_writer  # type: ignore[method-assign]


_begin = AioSqliteConfiguration.begin_transaction


@asynccontextmanager
async def _begin_as_writer(
    self: AioSqliteConfiguration,
    session: AsyncSession,
    with_for_update: bool = True,  # noqa: ARG001  (whatever Prefect asks for)
) -> AsyncIterator[AsyncSessionTransaction]:
    async with _begin(self, session, with_for_update=True) as transaction:
        await session.connection()  # begins now, and not with the first statement
        # What is only read meanwhile, by another session, must not wait for this very writer:
        # Prefect does that where a work queue is paused.
        token = SQLITE_BEGIN_MODE.set(None)
        try:
            yield transaction
        finally:
            SQLITE_BEGIN_MODE.reset(token)
