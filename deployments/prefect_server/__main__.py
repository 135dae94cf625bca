"""A Prefect server for many closes at once: `python -m deployments.prefect_server --port 4200`.

It is `prefect server start`, with some differences.

- Only its operator gets in: an authentication string, its own UI's origin, a key outside of the
  database and files that nobody else can read; docs/security.md says how to set all that yourself.
- Settings that suit many runs at the same moment; what you set yourself stays.
- What is the same in all events of a run (its deployment, its work pool) is remembered for 10,000
  runs and through their waits; Prefect looks it up again after a thousand other runs, or after
  five minutes: a tenth of what a night costs.
- What many rows refer to (a work queue, the type of a block) is read once for a request; Prefect
  asks the database again for each of its queries. A fifth less of what it costs to write a grant,
  and a fifteenth of what most changes of state do.
- A run's state is changed without reading its work queue, its deployment's schedules and that one's
  work queue, which nothing that decides about it asks for: a quarter less of what it costs, on
  SQLite.
- A block that was just written is not read again to tell others of it, by two recursive queries
  that Prefect builds each time: a third less of what it costs to write a grant.
- The database's driver is given Python's own datetimes. Prefect gives it pendulum's; asyncpg
  subtracts from each, which takes pendulum 13 microseconds instead of less than one, and a close
  writes some hundreds.
- Garbage is collected in a thread beside the event loop, once a second, and not after every
  few hundred objects: a sixth less of what a close costs. And a cursor that SQLAlchemy leaves
  behind, as it does where SQLite is locked, waits for its connection to be freed: collected in the
  middle of the loop, the whole server stands still for a minute.
- On SQLite, every transaction asks for the right to write when it begins, and waits for it. Prefect
  3.8 begins most of them as readers; when two such want to write, SQLite refuses one at once
  ("database is locked", https://www.sqlite.org/lang_transaction.html), and whoever asked begins
  again after pauses of 2, 4, 8 ... seconds.
- On SQLite, a statement goes to its connection's thread and comes back once, and not four times: a
  quarter of its cost is left, and a close makes some hundred.
- On SQLite, events are written the way they are on PostgreSQL. Prefect writes them there by one
  long statement that is compiled anew each time, which takes longer than all the rest of it.
- What is due in the background is looked for once a second instead of four times, and nobody
  listens for its cancelling, which Prefect never does: over a third of what a server uses that has
  nothing to do.
- Of the variables that closes keep for themselves, a lock and how far each has come, no events are
  emitted: a third of the events of a night, and none that anybody reads.
"""

import asyncio
import runpy
import sys
from datetime import timedelta

from prefect.settings import PREFECT_HOME, temporary_settings

from deployments.prefect_server import background, database, encryption, events, reads, safety

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
    # A night waits for a quarter of an hour, and its events are much alike before and after.
    "server.events.related_resource_cache_ttl": timedelta(minutes=30),
}


def main() -> None:
    """Start the server in this process, with the options of `prefect server start`."""
    arguments, home = sys.argv[1:], PREFECT_HOME.value()
    safety.close_files(home)
    _ask_for_less()
    sys.argv = ["prefect", "server", "start", *arguments]
    with temporary_settings(set_defaults=SETTINGS), safety.safe_settings(home, arguments):
        events.remember_more_runs()
        try:
            advice = asyncio.run(encryption.use_key(home))
        except encryption.WrongKeyError as error:
            sys.exit(str(error))
        for told in filter(None, (safety.how_to_log_in(home), advice)):
            print(told, flush=True)  # noqa: T201
        runpy.run_module("prefect", run_name="__main__")


def _ask_for_less() -> None:
    database.begin_as_writer()
    database.ask_in_one_go()
    database.bind_plain_datetimes()
    reads.look_in_the_session_first()
    reads.read_only_what_a_transition_needs()
    reads.read_plain_blocks_at_once()
    events.write_events_as_on_postgresql()
    events.emit_no_events_of_own_variables()
    background.let_background_work_rest()
    background.collect_garbage_beside_the_loop()


if __name__ == "__main__":
    main()
