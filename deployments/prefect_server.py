"""A Prefect server for many closes at once: `python -m deployments.prefect_server --port 4200`.

It is `prefect server start`, with nine differences.

- Settings that suit many runs at the same moment; what you set yourself stays.
- What is the same in all events of a run (its deployment, its work pool) is remembered for 10,000
  runs and through their waits; Prefect looks it up again after a thousand other runs, or after
  five minutes: a tenth of what a night costs.
- What many rows refer to (a work queue, the type of a block) is read once for a request; Prefect
  asks the database again for each of its queries. A fifth less of what it costs to write a grant,
  and a fifteenth of what most changes of state do.
- The database's driver is given Python's own datetimes. Prefect gives it pendulum's; asyncpg
  subtracts from each, which takes pendulum 13 microseconds instead of less than one, and a close
  writes some hundreds.
- Garbage is collected in a thread beside the event loop, once a second, and not after every
  few hundred objects: a sixth less of what a close costs. And on SQLite a locked database leaves a
  cursor behind, whose freeing waits for its connection: collected in the middle of the loop, the
  whole server stands still for a minute.
- On SQLite, every transaction asks for the right to write when it begins, and waits for it. Prefect
  3.8 begins most of them as readers; when two such want to write, SQLite refuses one at once
  ("database is locked", https://www.sqlite.org/lang_transaction.html), and whoever asked begins
  again after pauses of 2, 4, 8 ... seconds.
- On SQLite, events are written the way they are on PostgreSQL. Prefect writes them there by one
  long statement that is compiled anew each time, which takes longer than all the rest of it.
- What is due in the background is looked for once a second instead of four times, and nobody
  listens for its cancelling, which Prefect never does: over a third of what a server uses that has
  nothing to do.
- Of the variables that closes keep for themselves, a lock and how far each has come, no events are
  emitted: a third of the events of a night, and none that anybody reads.
"""

import gc
import re
import runpy
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partialmethod, wraps
from itertools import count

from cachetools import TTLCache
from docket import Worker
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.orm_models import (
    Base,
    BlockSchema,
    BlockType,
    Variable,
    WorkPool,
    WorkQueue,
)
from prefect.server.events.storage import database as stored_events
from prefect.server.models import events, variables
from prefect.server.utilities.database import Timestamp
from prefect.settings import PREFECT_API_EVENTS_RELATED_RESOURCE_CACHE_TTL, temporary_settings
from sqlalchemy import Dialect
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

SETTINGS = {
    # On PostgreSQL. Beyond the pool a connection is opened, and closed again, for each request.
    "server.database.sqlalchemy.pool_size": 30,
    "server.database.sqlalchemy.max_overflow": 0,
    # As installed, each report of a task run is written in a transaction of its own.
    "server.services.task_run_recorder.batch_size": 200,
    "server.services.task_run_recorder.read_batch_size": 50,
    "server.services.task_run_recorder.flush_interval": 1,
    "server.services.event_persister.batch_size": 500,
    "server.services.event_persister.read_batch_size": 50,
    "server.services.event_persister.flush_interval": 2,
    # Each run that is called late costs a write: one that only queues for a minute is not late.
    "server.services.late_runs.after_seconds": 120,
    # Installed for every five seconds: a fifth of what a server uses that has nothing to do.
    "server.services.late_runs.loop_seconds": 30,
    "server.services.cleanup_reconciler.loop_seconds": 30,
    "server.services.pause_expirations.loop_seconds": 60,  # no flow here is ever paused
    # Each round computes the next nights of every binding. An hour of them is laid out ahead, and
    # what is new or changed is seen after five seconds in any case.
    "server.services.scheduler.loop_seconds": 600,
    # A night waits for a quarter of an hour, and its events are much alike before and after.
    "server.events.related_resource_cache_ttl": timedelta(minutes=30),
}

RUNS_REMEMBERED = 10_000
"""Some four kilobytes each."""

SHARED = (BlockSchema, BlockType, WorkPool, WorkQueue)
"""What many rows refer to."""

OWN_VARIABLE = re.compile(r"(batch-close|configure|lock)-([a-z0-9-]+-)?[a-z2-7]{20}")
"""What a binding's variables are called; see `blocks.binding.Binding.slug`."""

PAUSE = 1.0
"""Seconds between two collections."""

FULL_EVERY = 60
"""Of so many collections one looks at everything: once a minute."""

LOOKING_EVERY = timedelta(seconds=1)
"""How often what is due in the background is looked for; Prefect's own services pause for five."""


def main() -> None:
    """Start the server in this process, with the options of `prefect server start`."""
    AioSqliteConfiguration.begin_transaction = _begin_as_writer  # type: ignore[method-assign]
    Timestamp.process_bind_param = bind_plain_datetime  # type: ignore[method-assign]
    look_in_the_session_first()
    write_events_as_on_postgresql()
    let_background_work_rest()
    emit_no_events_of_own_variables()
    gc.disable()
    threading.Thread(target=_collect, daemon=True).start()
    sys.argv = ["prefect", "server", "start", *sys.argv[1:]]
    with temporary_settings(set_defaults=SETTINGS):
        ttl = PREFECT_API_EVENTS_RELATED_RESOURCE_CACHE_TTL.value().total_seconds()
        events._flow_run_resource_data_cache = TTLCache(RUNS_REMEMBERED, ttl)  # noqa: SLF001
        runpy.run_module("prefect", run_name="__main__")


def look_in_the_session_first() -> None:
    """Load what is shared as `immediate`, which asks the database for what the session lacks.

    `selectin`, Prefect's choice, always asks it
    (https://docs.sqlalchemy.org/en/20/orm/queryguide/relationships.html). What the shared rows
    themselves refer to stays `selectin`: of `immediate` below `immediate`, SQLAlchemy 2.0 loads
    nothing once it meets a second row.
    """
    for mapper in Base.registry.mappers:
        if mapper.class_ in SHARED:
            continue
        for relationship in mapper.relationships:
            if relationship.lazy == "selectin" and relationship.mapper.class_ in SHARED:
                relationship.lazy = "immediate"
                relationship.strategy_key = (("lazy", "immediate"),)
                relationship.strategy = relationship._get_strategy(relationship.strategy_key)  # noqa: SLF001


def write_events_as_on_postgresql() -> None:
    """Have SQLite, which knows RETURNING since 3.35, written to by statements that are kept."""
    stored_events._write_sqlite_events = stored_events._write_postgres_events  # noqa: SLF001


def let_background_work_rest() -> None:
    """Have Prefect's background worker look every LOOKING_EVERY, and not listen for cancelling.

    There is no setting for either. In memory, listening means to poll ten times a second.
    """
    Worker.__init__ = partialmethod(  # type: ignore[method-assign,assignment]
        Worker.__init__,
        minimum_check_interval=LOOKING_EVERY,
        scheduling_resolution=LOOKING_EVERY,
    )
    Worker._cancellation_listener = _listen_to_nobody  # type: ignore[method-assign]  # noqa: SLF001


async def _listen_to_nobody(self: Worker) -> None:
    if session := self._processing_session:
        session.cancellation_ready.set()
        await session.stopping.wait()


def emit_no_events_of_own_variables() -> None:
    """Have Prefect emit events of other variables only; the runs themselves have events enough."""
    for change in ("created", "updated", "deleted"):
        name = f"emit_variable_{change}_event"
        setattr(variables, name, _of_others(getattr(variables, name)))


def _of_others(
    emit: Callable[[Variable], Awaitable[None]],
) -> Callable[[Variable], Awaitable[None]]:
    @wraps(emit)
    async def emit_of_others(variable: Variable) -> None:
        if not OWN_VARIABLE.fullmatch(variable.name):
            await emit(variable)

    return emit_of_others


_bind = Timestamp.process_bind_param


def bind_plain_datetime(
    self: Timestamp, value: datetime | None, dialect: Dialect
) -> datetime | None:
    """What the driver is given for a moment: the same one, never of a subclass."""
    if value is not None:
        value = datetime.combine(value.date(), value.timetz())
    return _bind(self, value, dialect)


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
        if number == FULL_EVERY:
            gc.freeze()  # what is loaded by now stays, and need not be looked at every minute


if __name__ == "__main__":
    main()
