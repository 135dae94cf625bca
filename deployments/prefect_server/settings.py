"""Settings of a Prefect server that suit many closes at the same moment."""

from datetime import timedelta

SETTINGS: dict[str, int | timedelta] = {
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
"""By Prefect's names for them (https://docs.prefect.io/v3/api-ref/settings-ref)."""


def as_environment() -> dict[str, str]:
    """The same for a server that is started in another way: environment variables."""
    return {
        f"PREFECT_{name.upper().replace('.', '_')}": _text(value)
        for name, value in SETTINGS.items()
    }


def _text(value: int | timedelta) -> str:
    return f"PT{value.total_seconds():.0f}S" if isinstance(value, timedelta) else str(value)
