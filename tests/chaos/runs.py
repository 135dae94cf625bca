"""The flow runs of one round, as Prefect knows them."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType

from deployments import journeys
from tests.chaos.patience import patiently

CONFIGURE = journeys.DEPLOYMENT.partition("/")[0]
CLOSE = "daily-close"

ALIVE = (
    StateType.SCHEDULED,
    StateType.PENDING,
    StateType.RUNNING,
    StateType.PAUSED,
    StateType.CANCELLING,
)


@dataclass(frozen=True)
class Runs:
    """All runs since a moment; none is waited for longer than so many seconds."""

    since: datetime
    within: float

    async def end(self, flow: str) -> None:
        """Return when no run of this flow is left to go on, or when that takes too long."""
        deadline = time.monotonic() + self.within
        while await self.alive(flow):
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(1)

    async def see(self, is_wanted: Callable[[FlowRun], bool]) -> list[FlowRun]:
        """The nightly runs that are so, when the first is; none if all end without, or none is."""
        deadline = time.monotonic() + self.within
        while (alive := await self.alive(CLOSE)) and time.monotonic() < deadline:
            if found := [run for run in alive if is_wanted(run)]:
                return found
            await asyncio.sleep(0.3)
        return []

    async def alive(self, flow: str) -> list[FlowRun]:
        """The runs of the flow that have not ended."""

        async def ask() -> list[FlowRun]:
            async with get_client() as client:
                return await client.read_flow_runs(
                    flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
                    flow_run_filter=FlowRunFilter(
                        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(ALIVE))),
                        expected_start_time=FlowRunFilterExpectedStartTime(after_=self.since),
                    ),
                )

        return await patiently(ask, self.within)
