"""One binding's nights as a test sees them: how they were configured, how they stand in Prefect."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import DeploymentResponse
from pydantic import SecretStr

from blocks import caller_token, clock
from blocks import deployment as deployments
from blocks.binding import Binding
from blocks.claim import Claim
from deployments.sandbox.client import SandboxClient
from deployments.sandbox.shapes import Close
from deployments.stack import WORK_POOL
from flows.admission import parse_request
from flows.configure import configure, configure_schedule
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.parameters import to_parameters

PROJECT = Path(__file__).parents[2] / "prefect.yaml"

PATIENCE = 150.0
"""Seconds. Everything here takes a few, but the machine may be busy with something else."""


def new_binding() -> Binding:
    """A binding that no other test uses."""
    return Binding(f"tenant-{uuid4().hex[:8]}", "eod")


def in_seconds(seconds: float) -> datetime:
    """A moment that a schedule can begin at."""
    return (clock.now() + timedelta(seconds=seconds)).replace(microsecond=0)


async def due_together(
    everyone: Sequence["Nights"],
    *,
    upstream_wait: float = 1,
    replication_delay: float = 1,
    **changed: Any,
) -> None:
    """Configure all these, calmly, and then have them fall due at the same moment, soon.

    Waits are given as seconds on an idle machine. On a busy one they are as much longer as it is
    slower, so that they are still long against what is done in between.
    """
    began = time.monotonic()
    for nights in everyone:
        await nights.configure(in_seconds(3600), **changed)
    slower = min(max(1.0, (time.monotonic() - began) / len(everyone)), 3.0)
    soon = in_seconds(4 + 2 * slower)
    changed["upstreamWaitDuration"] = f"PT{upstream_wait * slower:.0f}S"
    changed["replicationDelayDuration"] = f"PT{replication_delay * slower:.0f}S"
    await asyncio.gather(*(nights.reschedule(soon, **changed) for nights in everyone))


async def until(what: str, holds: Callable[[], object], *, patience: float = PATIENCE) -> None:
    """Return as soon as `holds()` does; fail, saying what was waited for, if it never does."""
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.1)


@dataclass
class Nights:
    """One binding, in the Prefect installation that the settings name, and in the sandbox."""

    sandbox: SandboxClient
    binding: Binding = field(default_factory=new_binding)
    planned: list[datetime] = field(default_factory=list)

    async def configure(
        self, first_run_at: datetime | str, **changed: Any
    ) -> DailyOrdersBatchCloseConfigRequest:
        """Configure by running the flow in this process; the sandbox is told the plan."""
        request = parse_request(self.wanted(first_run_at, **changed), now=clock.now())
        self.plan(request)
        block = await caller_token.hand_over(SecretStr(self.caller_token()))
        await configure(**to_parameters(request, block))
        return request

    async def reschedule(self, first_run_at: datetime, **changed: Any) -> None:
        """Only the step that sets up the schedule, for a binding configured before."""
        request = parse_request(self.wanted(first_run_at, **changed), now=clock.now())
        self.plan(request)
        await configure_schedule.fn(self.binding, request)

    def wanted(self, first_run_at: datetime | str, **changed: Any) -> dict[str, Any]:
        """A request for one night with waits of a second."""
        if isinstance(first_run_at, datetime):
            first_run_at = first_run_at.isoformat()
        return {
            "tenantId": self.binding.tenant_id,
            "batchId": self.binding.batch_id,
            "firstRunAt": first_run_at,
            "interval": "PT1H",
            "maxRuns": 1,
            "upstreamWaitDuration": "PT1S",
            "replicationDelayDuration": "PT1S",
            **changed,
        }

    def plan(self, request: DailyOrdersBatchCloseConfigRequest) -> None:
        """Tell the sandbox's judge when the work is due, on top of what was planned before."""
        self.planned += request.recurrence.occurrences()
        self.sandbox.plan(
            self.binding.tenant_id,
            self.binding.batch_id,
            self.planned,
            upstream_wait=request.upstream_wait,
            replication_delay=request.replication_delay,
        )

    def caller_token(self) -> str:
        """A new access token of a caller who may speak for the tenant."""
        return self.sandbox.subject_token(self.binding.tenant_id)

    def refreshes(self) -> int:
        """How many refreshes the OAuth server granted."""
        wanted = ("token.refresh", self.binding.tenant_id, 200)
        events = self.sandbox.events()
        return sum((event.kind, event.tenant_id, event.status) == wanted for event in events)

    def closes(self) -> list[Close]:
        """What the Orders API closed."""
        return self.sandbox.closes(self.binding.tenant_id, self.binding.batch_id)

    async def deployment(self) -> DeploymentResponse:
        """The binding's deployment."""
        found = await deployments.find(self.binding)
        assert found, f"{self.binding} has no deployment"
        return found

    async def runs(self) -> list[FlowRun]:
        """All runs of the binding's deployment, the earliest first."""
        owner = DeploymentFilter(id=DeploymentFilterId(any_=[(await self.deployment()).id]))
        found: list[FlowRun] = []
        async with get_client() as client:
            while page := await client.read_flow_runs(deployment_filter=owner, offset=len(found)):
                found += page
        return sorted(found, key=lambda run: run.expected_start_time or clock.now())

    async def moments(self) -> list[datetime]:
        """When those runs are expected to start, as plain datetimes: pendulum's differ in sums."""
        expected = [run.expected_start_time for run in await self.runs()]
        return [datetime.fromisoformat(moment.isoformat()) for moment in expected if moment]

    async def lay_out(self, end: datetime) -> None:
        """Have the server lay out all runs up to `end`; by itself it looks no further than it must.

        What it is asked for exceeds what there can be: the schedule alone decides.
        """
        start = clock.now()
        wanted = {
            "start_time": start.isoformat(),
            "end_time": end.isoformat(),
            "min_time": (end - start).total_seconds(),
            "max_runs": 5000,
        }
        path = {"id": (await self.deployment()).id}
        url = "/deployments/{id}/schedule"
        async with get_client() as client:
            await client.request("POST", url, path_params=path, json=wanted)

    async def reach(self, state: str, *, night: int = 1, patience: float = PATIENCE) -> FlowRun:
        """Wait until the night's run is in the state of this name; returns the run.

        In WaitForUpstream it is refreshed first, and what came back is stored.
        """
        deadline = time.monotonic() + patience
        if state == "WaitForUpstream":
            await until("the refresh", lambda: self.refreshes() >= night, patience=patience)
            await asyncio.sleep(0.5)
        while True:
            run = (await self.runs())[night - 1]
            if run.state_name == state:
                return run
            assert run.state, run
            assert not run.state.is_final(), f"{run.state_name}: {run.state.message}"
            assert time.monotonic() < deadline, f"{run.state_name}, and never {state}"
            await asyncio.sleep(0.2)


def waits_until(state: State[Any] | None) -> datetime:
    """Until when a run waits that is in this state, in a worker's memory or as scheduled."""
    assert state
    claim, scheduled = Claim.in_message(state.message), state.state_details.scheduled_time
    until_when = claim.until if claim else scheduled
    assert until_when, f"{state.name} is no wait"
    return datetime.fromisoformat(until_when.isoformat())


@asynccontextmanager
async def paused(client: PrefectClient) -> AsyncIterator[None]:
    """The work pool is paused, as by its switch in Prefect's UI."""
    await client.update_work_pool(WORK_POOL, WorkPoolUpdate(is_paused=True))
    try:
        yield
    finally:
        await client.update_work_pool(WORK_POOL, WorkPoolUpdate(is_paused=False))
