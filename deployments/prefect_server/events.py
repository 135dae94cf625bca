"""What the server emits, and what it remembers of it."""

import re
from collections.abc import Awaitable, Callable
from functools import wraps

from cachetools import TTLCache
from prefect.server.database.orm_models import Variable
from prefect.server.events.storage import database as stored_events
from prefect.server.models import events, variables
from prefect.settings import PREFECT_API_EVENTS_RELATED_RESOURCE_CACHE_TTL

OWN_VARIABLE = re.compile(r"(batch-close|batch_close_(configure|lock))-([a-z0-9-]+-)?[a-z2-7]{20}")
"""What a binding's variables are called; see `blocks.binding.Binding.slug`."""

RUNS_REMEMBERED = 10_000
"""Some four kilobytes each."""


def remember_more_runs() -> None:
    """Keep what the events of a run have in common, for as long as Prefect's setting says."""
    ttl = PREFECT_API_EVENTS_RELATED_RESOURCE_CACHE_TTL.value().total_seconds()
    events._flow_run_resource_data_cache = TTLCache(RUNS_REMEMBERED, ttl)  # noqa: SLF001


def write_events_as_on_postgresql() -> None:
    """Have SQLite, which knows RETURNING since 3.35, written to by statements that are kept."""
    stored_events._write_sqlite_events = stored_events._write_postgres_events  # noqa: SLF001


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
