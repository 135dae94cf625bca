"""A Prefect server on SQLite, for one machine: `python -m deployments.embedded_server --port 4200`.

It is `prefect server start`, with two differences. A server on PostgreSQL needs neither.

- Every transaction asks for the right to write when it begins, and waits for it. Prefect 3.8 begins
  most of them as readers; when two such want to write, SQLite refuses one at once ("database is
  locked", https://www.sqlite.org/lang_transaction.html), and whoever asked begins again after
  pauses of 2, 4, 8 ... seconds.
- Garbage is collected in a thread beside the event loop. A locked database leaves a cursor behind,
  whose freeing waits for its connection: collected in the middle of the loop, the whole server
  stands still for a minute.
"""

import gc
import runpy
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

PAUSE = 0.2
"""Seconds between two collections."""

FULL_EVERY = 300
"""Of so many collections one looks at everything: once a minute."""


def main() -> None:
    """Start the server in this process, with the options of `prefect server start`."""
    AioSqliteConfiguration.begin_transaction = _begin_as_writer  # type: ignore[method-assign]
    gc.disable()
    threading.Thread(target=_collect, daemon=True).start()
    sys.argv = ["prefect", "server", "start", *sys.argv[1:]]
    runpy.run_module("prefect", run_name="__main__")


_begin = AioSqliteConfiguration.begin_transaction


@asynccontextmanager
async def _begin_as_writer(
    self: AioSqliteConfiguration,
    session: AsyncSession,
    with_for_update: bool = True,  # noqa: ARG001  (whatever Prefect asks for)
) -> AsyncIterator[AsyncSessionTransaction]:
    async with _begin(self, session, with_for_update=True) as transaction:
        yield transaction


def _collect() -> None:
    for number in count(1):
        time.sleep(PAUSE)
        gc.collect(2 if number % FULL_EVERY == 0 else 1)


if __name__ == "__main__":
    main()
