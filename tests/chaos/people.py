"""What people do in the middle of a round, and what must not happen meanwhile."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus
from prefect.states import Suspended

from blocks import clock
from deployments.sandbox.client import SandboxClient
from deployments.stack import WORK_POOL, Stack, StackError
from tests.chaos.blows import ByHand, PoolPause, Suspension
from tests.chaos.runs import CLOSE, Runs
from tests.chaos.trials import Trial

TEMPLATE = "daily-close/daily-orders-batch-close"
CALL = """
import asyncio, sys
from flows.daily_close import daily_close

asyncio.run(daily_close(*sys.argv[1:]))
"""
UNDER_WAY = timedelta(seconds=3)
"""So long after people say stop, what a run is doing then may still arrive."""

WORK = {"token.refresh", "orders.prepareSnapshot", "orders.close"}


@dataclass
class People:
    """Those who look at an installation in the middle of a round."""

    stack: Stack
    sandbox: SandboxClient
    trials: Sequence[Trial]
    runs: Runs

    async def run_by_hand(self, blow: ByHand) -> list[str]:
        """Run the close of every other tenant that waits; what is wrong with how that ended."""
        if not await self.runs.see(lambda run: run.state_name == blow.wait):
            return [f"nobody was ever seen in {blow.wait}"]
        await asyncio.sleep(1)  # by then others wait, too
        waiting = [run for run in await self.runs.alive(CLOSE) if run.state_name == blow.wait]
        tenants = {run.parameters.get("tenant_id") for run in waiting}
        chosen = [trial for trial in self.trials if trial.binding.tenant_id in tenants][::2]
        run = self._deployed if blow.how == "deployment" else self._called
        return [it for wrong in await asyncio.gather(*map(run, chosen)) for it in wrong]

    async def suspend(self, blow: Suspension) -> list[str]:
        """Suspend runs that are executed, as the UI does it, and resume them later."""
        running = await self.runs.see(lambda run: run.state_type is StateType.RUNNING)
        if not running:
            return ["nobody was ever seen executed"]
        wrong = await asyncio.gather(*(self._suspend_one(run, blow) for run in running[::2]))
        return [it for found in wrong for it in found]

    async def pause_pool(self, blow: PoolPause) -> list[str]:
        """Pause the work pool while somebody waits, and resume it later."""
        if not await self.runs.see(lambda run: run.state_name == blow.wait):
            return [f"nobody was ever seen in {blow.wait}"]
        await _set_paused(is_paused=True)
        since = clock.now()
        try:
            await asyncio.sleep(blow.seconds)
        finally:
            until = clock.now()
            await _set_paused(is_paused=False)
        tenants = {trial.binding.tenant_id for trial in self.trials}
        return self._asked(tenants, since, until, "the work pool was paused")

    async def _deployed(self, trial: Trial) -> list[str]:
        asked = {"tenant_id": trial.binding.tenant_id, "batch_id": trial.binding.batch_id}
        async with get_client() as client:
            template = await client.read_deployment_by_name(TEMPLATE)
            run = await client.create_flow_run_from_deployment(template.id, parameters=asked)
            while run.state is None or not run.state.is_final():
                await asyncio.sleep(1)
                run = await client.read_flow_run(run.id)
        return [] if run.state.is_completed() else [f"its run by hand ended {run.state_name}"]

    async def _called(self, trial: Trial) -> list[str]:
        binding = trial.binding
        call = partial(self.stack.run, "-c", CALL, binding.tenant_id, binding.batch_id)
        try:
            await asyncio.to_thread(call)
        except StackError as error:
            return [f"its call by hand failed: {str(error)[-300:]}"]
        return []

    async def _suspend_one(self, run: FlowRun, blow: Suspension) -> list[str]:
        async with get_client() as client:
            suspended: State[None] = Suspended(timeout_seconds=600)
            asked: OrchestrationResult[None] = await client.set_flow_run_state(run.id, suspended)
            if asked.status is not SetStateStatus.ACCEPT:
                return []  # it waits or has ended by now: nothing to suspend
            since = clock.now()
            await asyncio.sleep(blow.seconds)
            until, found = clock.now(), await client.read_flow_run(run.id)
            await client.resume_flow_run(run.id)
        if found.state and not (found.state.is_paused() or found.state.is_final()):
            return [f"{run.name} was suspended, but is {found.state_name} with nobody resuming it"]
        tenant = str(run.parameters.get("tenant_id"))
        return self._asked({tenant}, since, until, "it was suspended")

    def _asked(self, tenants: set[str], since: datetime, until: datetime, why: str) -> list[str]:
        return [
            f"{event.tenant_id} asked for {event.kind} while {why}"
            for event in self.sandbox.events()
            if event.tenant_id in tenants and event.kind in WORK
            if since + UNDER_WAY < event.at < until
        ]


async def _set_paused(*, is_paused: bool) -> None:
    async with get_client() as client:
        await client.update_work_pool(WORK_POOL, WorkPoolUpdate(is_paused=is_paused))
