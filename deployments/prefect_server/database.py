"""How the server talks to its database's driver."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import datetime
from functools import partial
from typing import Any

from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from prefect.server.utilities.database import Timestamp
from sqlalchemy import Dialect
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_cursor
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


def begin_as_writer() -> None:
    """On SQLite, ask for the right to write when a transaction begins, and wait for it."""
    AioSqliteConfiguration.begin_transaction = _begin_as_writer  # type: ignore[method-assign]


def ask_in_one_go() -> None:
    """On SQLite, have a connection's thread do all of a statement at once.

    aiosqlite makes a cursor there, executes, fetches and closes, and goes back and forth between
    that thread and the event loop for each: 300 microseconds instead of 75.
    """
    AsyncAdapt_aiosqlite_cursor.execute = _execute_in_one_go  # type: ignore[method-assign]


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
        await session.connection()  # begins now, and not with the first statement
        # What is only read meanwhile, by another session, must not wait for this very writer:
        # Prefect does that where a work queue is paused.
        token = SQLITE_BEGIN_MODE.set(None)
        try:
            yield transaction
        finally:
            SQLITE_BEGIN_MODE.reset(token)


_execute = AsyncAdapt_aiosqlite_cursor.execute


def _execute_in_one_go(
    self: AsyncAdapt_aiosqlite_cursor, operation: Any, parameters: Any = None
) -> None:
    if self.server_side:  # what it fetches is not fetched at once
        _execute(self, operation, parameters)
        return
    connection: Any = self._connection
    ask = partial(_ask, connection, operation, parameters or ())
    try:
        self.description, rows, self.lastrowid, self.rowcount = self.await_(
            connection._execute(ask)  # noqa: SLF001
        )
    except Exception as error:  # noqa: BLE001  (as SQLAlchemy does, which raises another)
        self._adapt_connection._handle_exception(error)  # noqa: SLF001
    self._rows = deque(rows)


def _ask(
    connection: Any, operation: str, parameters: Any
) -> tuple[Any, list[Any], int | None, int]:
    with closing(connection._conn.cursor()) as cursor:  # noqa: SLF001
        cursor.execute(operation, parameters)
        if cursor.description:
            return cursor.description, cursor.fetchall(), -1, -1
        return None, [], cursor.lastrowid, cursor.rowcount


_bind = Timestamp.process_bind_param


def bind_plain_datetime(
    self: Timestamp, value: datetime | None, dialect: Dialect
) -> datetime | None:
    """What the driver is given for a moment: the same one, never of a subclass."""
    if value is not None:
        value = datetime.combine(value.date(), value.timetz())
    return _bind(self, value, dialect)
