"""Nights whose runs were cancelled or crashed while nobody executed them: they are recorded, too.

Prefect ends such a run in its own database, so no flow is there to say how the night ended; and
after the last night no later one comes that would find out.
"""

from datetime import timedelta
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
from blocks.quoting import quotable
from flows.unopened import record_instead

LATELY = timedelta(minutes=10)
"""How long ago a run may have been stopped: a later night tells of older ones."""

PAGE = 200


class StoppedRuns:
    """The stopped runs of one work pool, each looked after once by a process."""

    def __init__(self) -> None:
        self._recorded: LRUCache[UUID, None] = LRUCache(10_000)

    async def record(self, client: PrefectClient, pool: str) -> None:
        """Record the nights of runs that were stopped lately.

        One that cannot be recorded holds up no other, and is tried again for as long as it is new.
        Raises httpx.HTTPError where Prefect's API is away.
        """
        for run in await _stopped_lately(client, pool):
            if run.id in self._recorded or run.state is None:
                continue
            said = quotable(run.state.message)
            reason = f"Its run ended as {run.state.name}" + (f": {said}" if said else ".")
            try:
                await record_instead(run, "SKIPPED", reason)
            except Exception as error:  # noqa: BLE001  (whatever it is, the next run's turn comes)
                kind = type(error).__name__
                get_logger("stopped").warning("Run %s is not recorded (%s).", run.name, kind)
            else:
                self._recorded[run.id] = None


async def _stopped_lately(client: PrefectClient, pool: str) -> list[FlowRun]:
    kinds = FlowRunFilterStateType(any_=[StateType.CANCELLED, StateType.CRASHED])
    found: list[FlowRun] = []
    while True:
        page = await client.read_flow_runs(
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=kinds),
                end_time=FlowRunFilterEndTime(after_=clock.now() - LATELY),
                expected_start_time=FlowRunFilterExpectedStartTime(before_=clock.now()),
            ),
            sort=FlowRunSort.END_TIME_DESC,
            limit=PAGE,
            offset=len(found),
        )
        found += page
        if len(page) < PAGE:
            return found
