"""How a binding's deployment stands in Prefect at this moment, whoever set it so."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.schedules import RRuleSchedule
from prefect.client.schemas.sorting import FlowRunSort
from pydantic import BaseModel

from blocks import clock, work_pool
from blocks.binding import Binding
from blocks.deployment import FLOW
from blocks.together import Together

PAGE = 200
"""As many runs as Prefect's API tells of at once."""


class _Schedule(BaseModel):
    active: bool
    schedule: dict[str, Any]
    updated: datetime | None = None


class Standing(BaseModel):
    """A binding's deployment: whether it is switched on, when it runs, what with."""

    id: UUID
    paused: bool
    work_pool_name: str | None = None
    work_queue_name: str | None = None
    schedules: list[_Schedule]
    parameters: dict[str, Any]

    @property
    def is_on(self) -> bool:
        """Whether Prefect lays out any runs of it."""
        return not self.paused and any(schedule.active for schedule in self.schedules)

    @property
    def changed_at(self) -> datetime | None:
        """When a schedule of it was changed last; new code and new parameters change none."""
        return max((it.updated for it in self.schedules if it.updated), default=None)

    async def paused_because(self) -> str | None:
        """Why no night of it is closed at the moment, in a sentence; None if nothing is paused."""
        if self.paused:
            return "Its deployment is paused in Prefect."
        if not self.is_on:
            return "Its schedule is switched off in Prefect."
        if await self.is_pool_paused():
            pool, queue = self.work_pool_name, self.work_queue_name
            return f"The work pool {pool}, or its queue {queue}, is paused in Prefect."
        return None

    async def is_pool_paused(self) -> bool:
        """Whether the work pool that its runs come from, or the queue, is paused."""
        pool, queue = self.work_pool_name, self.work_queue_name
        return pool is not None and await work_pool.is_paused(pool, queue)

    def follows(self, schedule: RRuleSchedule) -> bool:
        """Whether this is still its only schedule: people can edit schedules in Prefect."""
        wanted = (schedule.rrule, schedule.timezone)
        stand = [(it.schedule.get("rrule"), it.schedule.get("timezone")) for it in self.schedules]
        return stand == [wanted]

    async def runs_at(self, moments: Collection[datetime]) -> dict[datetime, list[FlowRun]]:
        """Its runs that were to start at one of these moments, by the moment."""
        found: dict[datetime, list[FlowRun]] = {moment: [] for moment in moments}
        for run in await self.runs_between(min(moments), max(moments)):
            if run.expected_start_time in found:
                found[run.expected_start_time].append(run)
        return found

    async def runs_between(self, first: datetime, last: datetime) -> list[FlowRun]:
        """Its runs that were to start at one of these two moments, or in between."""
        found: list[FlowRun] = []
        async with get_client() as client:
            while True:
                page = await client.read_flow_runs(
                    deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[self.id])),
                    flow_run_filter=FlowRunFilter(
                        expected_start_time=FlowRunFilterExpectedStartTime(
                            after_=first, before_=last
                        )
                    ),
                    sort=FlowRunSort.EXPECTED_START_TIME_DESC,
                    limit=PAGE,
                    offset=len(found),
                )
                found += page
                if len(page) < PAGE:
                    return found

    async def next_night_after(self, occurrence: datetime) -> datetime | None:
        """When the next of its nights is due that Prefect has laid out, begun or not."""
        since = FlowRunFilterExpectedStartTime(after_=occurrence + timedelta(microseconds=1))
        async with get_client() as client:
            runs = await client.read_flow_runs(
                deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[self.id])),
                flow_run_filter=FlowRunFilter(expected_start_time=since),
                sort=FlowRunSort.EXPECTED_START_TIME_ASC,
                limit=PAGE,
            )
        due = (run.expected_start_time for run in runs if run.auto_scheduled)
        return next((datetime.fromisoformat(it.isoformat()) for it in due if it), None)

    async def next_run_at(self) -> datetime | None:
        """When the next of its runs that Prefect has laid out is to start."""
        wanted = FlowRunFilter(
            expected_start_time=FlowRunFilterExpectedStartTime(after_=clock.now()),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        )
        async with get_client() as client:
            runs = await client.read_flow_runs(
                deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[self.id])),
                flow_run_filter=wanted,
                sort=FlowRunSort.EXPECTED_START_TIME_ASC,
                limit=1,
            )
        return runs[0].expected_start_time if runs else None


async def read(binding: Binding) -> Standing | None:
    """How the binding's deployment stands; None where there is none."""
    found = await _together.get(binding.slug)
    if found is None:
        found = (await _read([binding.slug]))[binding.slug]
    return found[0] if found else None


async def _read(names: list[str]) -> dict[str, list[Standing]]:
    wanted = {"deployments": {"name": {"any_": names}}, "flows": {"name": {"any_": [FLOW]}}}
    async with get_client() as client:
        response = await client.request("POST", "/deployments/filter", json=wanted)
    found: dict[str, list[Standing]] = {name: [] for name in names}
    for it in response.json():
        found[it["name"]].append(Standing.model_validate(it))
    return found


_together = Together(_read, most=50)
