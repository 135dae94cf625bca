"""How the server talks to its database's driver."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.utilities.database import Timestamp
from sqlalchemy import Dialect
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


def begin_as_writer() -> None:
    """On SQLite, ask for the right to write when a transaction begins, and wait for it."""
    AioSqliteConfiguration.begin_transaction = _begin_as_writer  # type: ignore[method-assign]


def bind_plain_datetimes() -> None:
    """Give the driver what `bind_plain_datetime` makes of each moment."""
    Timestamp.process_bind_param = bind_plain_datetime  # type: ignore[method-assign]


_begin = AioSqliteConfiguration.begin_transaction


@asynccontextmanager
async def _begin_as_writer(
    self: AioSqliteConfiguration,
    session: AsyncSession,
    with_for_update: bool = True,  # noqa: ARG001  (whatever Prefect asks for)
) -> AsyncIterator[AsyncSessionTransaction]:
    async with _begin(self, session, with_for_update=True) as transaction:
        yield transaction


_bind = Timestamp.process_bind_param


def bind_plain_datetime(
    self: Timestamp, value: datetime | None, dialect: Dialect
) -> datetime | None:
    """What the driver is given for a moment: the same one, never of a subclass."""
    if value is not None:
        value = datetime.combine(value.date(), value.timetz())
    return _bind(self, value, dialect)
