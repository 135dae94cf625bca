"""A Prefect worker that runs flows inside its own process.

The stock process worker starts a Python process for every piece of every run: seconds and 100 MB
each, for flows that mostly wait. This one imports each flow once and runs many at a time in its
event loop, never more than its limit. It also finds the runs that a dead worker left behind. Start
it like any other:

    prefect worker start --pool daily-orders --type batch-close
"""

from typing import Any
from uuid import UUID, uuid4

import anyio
import anyio.abc
import httpx
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.flows import Flow
from prefect.settings import (
    PREFECT_WORKER_CANCELLATION_POLL_SECONDS,
    PREFECT_WORKER_ENABLE_CANCELLATION,
    temporary_settings,
)
from prefect.states import Crashed
from prefect.workers.base import (
    BaseJobConfiguration,
    BaseVariables,
    BaseWorker,
    BaseWorkerResult,
)

from blocks.places import Places
from blocks.proposals import AT_ONCE
from deployments.claims import is_cancelled_instead_of_taken, wake
from deployments.due import DueRuns
from deployments.engine import end_cancelled, execute
from deployments.loading import CannotLoadError, LoadedFlows
from deployments.owner import Owner
from deployments.prefect_client import shared_prefect_client
from deployments.recovery import give_back, nobodys, recover

RUNS_AT_ONCE = 32
"""Unless `--limit` says otherwise. Many more at once only drown the Prefect API's database."""

ENOUGH = 100
"""Runs that are due and not taken: to ask Prefect for more would only slow these down."""

HEARS_OF_CANCELLING = {
    PREFECT_WORKER_ENABLE_CANCELLATION: True,
    PREFECT_WORKER_CANCELLATION_POLL_SECONDS: 10,  # for when Prefect's events do not come through
}
"""What people expect, and Prefect leaves to the process that a run has elsewhere."""

HEARTBEAT_SECONDS = 10
"""How often a worker says that it lives, and looks for the runs of workers that do not."""

SLOW_AFTER = 4.0
"""Seconds after which a run that was woken without being taken is taken after all."""


class BatchCloseWorker(BaseWorker[BaseJobConfiguration, BaseVariables, BaseWorkerResult]):
    """Runs flow runs side by side in one event loop."""

    type = "batch-close"
    job_configuration = BaseJobConfiguration
    job_configuration_variables = BaseVariables
    _description = "Run flows inside the worker's own process, many at a time."
    _display_name = "Batch close"

    def __init__(self, work_pool_name: str, *, limit: int | None = None, **options: Any) -> None:
        options["heartbeat_interval_seconds"] = HEARTBEAT_SECONDS
        super().__init__(work_pool_name, **options)
        self._batch = min(limit or RUNS_AT_ONCE, AT_ONCE)
        self._me = Owner(self.name, uuid4().hex)
        self._places = Places(limit or RUNS_AT_ONCE, owner=str(self._me))
        self._due = DueRuns()
        self._has_recovered = False
        self._flows = LoadedFlows()
        self._executing: dict[UUID, anyio.CancelScope] = {}
        self._held_lately: set[UUID] = set()
        self._taking: set[UUID] = set()

    async def setup(self) -> None:
        """Prepare the worker, and the one API client that all its runs share."""
        self._exit_stack.enter_context(temporary_settings(HEARS_OF_CANCELLING))
        await self._exit_stack.enter_async_context(shared_prefect_client())
        await super().setup()
        self._runs.start_soon(self._serve)

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Take the runs that are due; none while Prefect's API is away."""
        if not self._has_recovered:
            return []  # what a dead worker left behind has waited longest
        if self._due.backlog() > ENOUGH:
            return []  # Prefect's API has its hands full with what is taken already
        try:
            return await super().get_and_submit_flow_runs()
        except httpx.HTTPError as error:
            self._wait_for_prefect(error)
            return []

    async def sync_with_backend(self) -> None:
        """Send the heartbeat, and give back what dead workers left behind."""
        try:
            await self._beat_and_recover()
        except httpx.HTTPError as error:
            self._wait_for_prefect(error)

    async def run(
        self,
        flow_run: FlowRun,
        configuration: BaseJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> BaseWorkerResult:
        """Not called: there is no infrastructure to start a run on."""
        raise NotImplementedError

    @property
    def _runs(self) -> anyio.abc.TaskGroup:
        if self._runs_task_group is None:
            raise RuntimeError("The worker is not set up.")
        return self._runs_task_group

    async def _beat_and_recover(self) -> None:
        await super().sync_with_backend()
        # Grows with every run that is taken while Prefect answers how things stood a while ago.
        self._held_lately = self._taking | set(self._executing)
        await recover(self.client, self._work_pool_name, self._me, self._held_lately)
        self._has_recovered = True

    def _wait_for_prefect(self, error: httpx.HTTPError) -> None:
        """Go on: Prefect's own loop would end the worker after a few of these.

        With it would go what its runs have in memory only, a rotated refresh token for one.
        """
        if not self._has_successfully_synced or not _may_pass(error):
            raise error
        self._logger.warning("Prefect's API is away (%s); trying again.", type(error).__name__)

    async def _submit_scheduled_flow_runs(
        self, flow_run_response: list[WorkerFlowRunResponse]
    ) -> list[FlowRun]:
        """Remember the runs that are due, in their order; each is taken when its turn comes.

        Prefect's worker would take as many as there are places, and look away for ten seconds.
        """
        # Twice: one that is executed now may wait again by when Prefect has answered, for longer.
        held = self._executing.keys() | self._taking
        new = [it.flow_run for it in flow_run_response if not self._due.knows(it.flow_run)]
        mine = await nobodys(self.client, self._work_pool_name, self._me, new)
        held |= self._executing.keys() | self._taking
        return [run for run in mine if run.id not in held and self._due.add(run)]

    async def _serve(self) -> None:
        """Take the runs that are due, a few at a time, and execute them as places become free."""
        while True:
            runs = [r for r in await self._due.next(self._batch) if r.id not in self._executing]
            # From before they are taken, or they would seem to have been left behind.
            self._taking = {run.id for run in runs}
            self._held_lately |= self._taking
            try:
                # What is taken while the worker is told to stop has to be given back.
                with anyio.CancelScope(shield=True):
                    taken = await wake(self.client, runs, self._me)
            except (httpx.HTTPError, ValueError) as error:  # away, or an answer that is none
                self._logger.warning("Runs are not taken (%s).", type(error).__name__)
                await anyio.sleep(1)
                continue  # they are found again
            finally:
                self._taking = set()
            for run in taken:
                scope = self._hold(run.id)
                self._runs.start_soon(self._submit_run, run)
                if run.state and run.state.is_scheduled():
                    self._runs.start_soon(self._take_if_slow, run, scope)
            async with self._places.one():
                pass  # all those before have one

    async def _submit_run(self, flow_run: FlowRun) -> None:
        """Execute a run that was taken, up to its end or its next wait."""
        try:
            waits = await self._execute(flow_run)
        except Exception:
            # What is left Running is given back at the next heartbeat, what was only woken found.
            self._logger.exception("Run %s was interrupted.", flow_run.name)
            return
        if waits and flow_run.state:
            # This worker need not ask Prefect for it again. Should it die, any other may take it.
            flow_run.state_id = flow_run.state.id
            flow_run.next_scheduled_start_time = flow_run.state.state_details.scheduled_time
            self._due.add(flow_run)

    async def _execute(self, flow_run: FlowRun) -> bool:
        flow: Flow[..., Any] | None = None
        waits = False
        try:
            with self._executing[flow_run.id] as scope:
                async with self._places.one():
                    if flow := await self._load(flow_run):
                        waits = await execute(flow, flow_run, self.client)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await give_back(self.client, flow_run, "its worker was stopped")
            raise
        finally:
            self._let_go(flow_run.id)
        if scope.cancel_called:
            await end_cancelled(flow, flow_run, self.client)
        return waits and not scope.cancel_called

    async def _take_if_slow(self, run: FlowRun, scope: anyio.CancelScope) -> None:
        """Take a run that was only woken, once it lasts: it is shown then, and can be cancelled."""
        await anyio.sleep(SLOW_AFTER)
        if self._executing.get(run.id) is not scope:
            return
        try:
            if await is_cancelled_instead_of_taken(self.client, run, self._me):
                scope.cancel()
        except (httpx.HTTPError, ValueError) as error:
            self._logger.warning("Run %s is not taken (%s).", run.name, type(error).__name__)

    def _hold(self, run_id: UUID) -> anyio.CancelScope:
        self._executing[run_id] = scope = anyio.CancelScope()
        if self._cancelling_observer:
            self._cancelling_observer.add_in_flight_flow_run_id(run_id)
        return scope

    def _let_go(self, run_id: UUID) -> None:
        del self._executing[run_id]
        if self._cancelling_observer:
            self._cancelling_observer.remove_in_flight_flow_run_id(run_id)

    async def _cancel_run(self, flow_run_id: UUID) -> None:
        # Prefect tells every worker of the pool; it is this one's run if it is executed here.
        if scope := self._executing.get(flow_run_id):
            scope.cancel()

    async def _load(self, flow_run: FlowRun) -> Flow[..., Any] | None:
        try:
            return await self._flows.of(flow_run)
        except CannotLoadError as error:
            self._logger.exception("The flow of run %s cannot be loaded.", flow_run.name)
            crashed: State[None] = Crashed(message=str(error))
            await self.client.set_flow_run_state(flow_run.id, crashed, force=True)
            return None


def _may_pass(error: httpx.HTTPError) -> bool:
    return not (isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error)
