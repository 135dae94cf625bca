"""Nights whose runs were ended in Prefect while nobody executed them: they are recorded, too.

Somebody cancelled such a run or set its state by hand, or Prefect ended it in its own database. So
no flow is there to say how the night ended; and after the last night no later one comes that would
find out.
"""

from datetime import datetime, timedelta
from uuid import UUID

from cachetools import LRUCache
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.logging import get_logger

from blocks import clock
from flows.unopened import record_ended

LATELY = timedelta(days=1)
"""How long ago a run may have ended at a first look: a later night tells of older ones."""

LOOK_SECONDS = 20
"""How often to look: each run that ended is read at two looks or three."""

OVERLAP = timedelta(seconds=30)
"""How far a look reaches back behind the one before: the database may have been slow."""

PAGE = 200
_ENDED = FlowRunFilterState(
    type=FlowRunFilterStateType(
        any_=[StateType.CANCELLED, StateType.CRASHED, StateType.COMPLETED, StateType.FAILED]
    )
)


class StoppedRuns:
    """The ended runs of one work pool, each looked at once by a process."""

    def __init__(self) -> None:
        self._seen: LRUCache[UUID, None] = LRUCache(10_000)
        self._since: datetime | None = None

    async def record(self, client: PrefectClient, pool: str) -> None:
        """Record the nights of runs that were ended since the last look, and recorded nothing.

        One that cannot be recorded holds up no other, and is tried again for as long as it is new.
        Raises httpx.HTTPError where Prefect's API is away.
        """
        now = clock.now()
        since = max(now - LATELY, self._since or now - LATELY)
        has_failed = False
        for run in await _ended(client, pool, since, now):
            if run.id in self._seen:
                continue
            try:
                await record_ended(run)
            except Exception as error:  # noqa: BLE001  (whatever it is, the next run's turn comes)
                kind, has_failed = type(error).__name__, True
                get_logger("stopped").warning("Run %s is not recorded (%s).", run.name, kind)
            else:
                self._seen[run.id] = None
        if not has_failed:
            self._since = now - OVERLAP


async def _ended(client: PrefectClient, pool: str, since: datetime, now: datetime) -> list[FlowRun]:
    """The due runs that ended since then, or that had ended before and fell due since then."""
    ended = FlowRunFilter(
        state=_ENDED,
        end_time=FlowRunFilterEndTime(after_=since),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=now),
    )
    ahead_of_time = FlowRunFilter(
        state=_ENDED,
        end_time=FlowRunFilterEndTime(before_=since),
        expected_start_time=FlowRunFilterExpectedStartTime(after_=since, before_=now),
    )
    return [*await _find(client, pool, ended), *await _find(client, pool, ahead_of_time)]


async def _find(client: PrefectClient, pool: str, wanted: FlowRunFilter) -> list[FlowRun]:
    found: list[FlowRun] = []
    while True:
        page = await client.read_flow_runs(
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
            flow_run_filter=wanted,
            sort=FlowRunSort.END_TIME_DESC,
            limit=PAGE,
            offset=len(found),
        )
        found += page
        if len(page) < PAGE:
            return found
