"""A Prefect worker that runs flows inside its own process.

The stock process worker starts a Python process for every piece of every run: seconds and 100 MB
each, for flows that mostly wait. This one imports each flow once and runs many at a time in one
event loop, never more than its limit. It also finds the runs that a dead worker left behind. Start
it like any other:

    prefect worker start --pool daily-orders --type batch-close
"""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import anyio
import anyio.abc
import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.exceptions import Abort, Pause
from prefect.flow_engine import run_flow_async
from prefect.flows import Flow, load_flow_from_flow_run
from prefect.states import Pending
from prefect.utilities.engine import propose_state
from prefect.workers.base import (
    BaseJobConfiguration,
    BaseVariables,
    BaseWorker,
    BaseWorkerResult,
)

from deployments.recovery import OWNER_LABEL, Owner, give_back, recover

RUNS_AT_ONCE = 16
"""Unless `--limit` says otherwise. Many more at once only drown the Prefect API's database."""

HEARTBEAT_SECONDS = 10
"""How often a worker says that it lives, and looks for the runs of workers that do not."""


class BatchCloseResult(BaseWorkerResult):
    """That a run was executed; how it ended is in its Prefect state."""


class BatchCloseWorker(BaseWorker[BaseJobConfiguration, BaseVariables, BatchCloseResult]):
    """Runs flow runs side by side in one event loop."""

    type = "batch-close"
    job_configuration = BaseJobConfiguration
    job_configuration_variables = BaseVariables
    _description = "Run flows inside the worker's own process, many at a time."
    _display_name = "Batch close"

    def __init__(self, work_pool_name: str, *, limit: int | None = None, **options: Any) -> None:
        options["heartbeat_interval_seconds"] = HEARTBEAT_SECONDS
        super().__init__(work_pool_name, limit=limit or RUNS_AT_ONCE, **options)
        self._me = Owner(self.name, uuid4().hex)
        self._flows: dict[tuple[UUID, str | None], Flow[..., Any]] = {}
        self._executing: set[UUID] = set()
        self._held_lately: set[UUID] = set()
        self._engine_room: BlockingPortal | None = None

    async def setup(self) -> None:
        """Prepare the worker, and a thread with an event loop that all its runs share.

        Not the worker's own thread: there, Prefect's engine would take over the handling of
        SIGTERM for as long as any run is executed.
        """
        self._engine_room = self._exit_stack.enter_context(start_blocking_portal())
        await super().setup()

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Take the runs that are due; none while Prefect's API is away."""
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

    async def _beat_and_recover(self) -> None:
        await super().sync_with_backend()
        # Grows with every run that is taken while Prefect answers how things stood a while ago.
        self._held_lately = self._executing | self._submitting_flow_run_ids
        await recover(self.client, self._work_pool_name, self._me, self._held_lately)

    def _wait_for_prefect(self, error: httpx.HTTPError) -> None:
        """Go on: Prefect's own loop would end the worker after a few of these.

        With it would go what its runs have in memory only, a rotated refresh token for one.
        """
        if not self._has_successfully_synced or not _may_pass(error):
            raise error
        self._logger.warning("Prefect's API is away (%s); trying again.", type(error).__name__)

    async def run(
        self,
        flow_run: FlowRun,
        configuration: BaseJobConfiguration,  # noqa: ARG002  (there is no infrastructure)
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> BatchCloseResult:
        """Execute the flow run, up to its end or its next wait."""
        flow = await self._load(flow_run)
        if task_status:
            task_status.started(1)  # something true: there is no process of its own to name
        if self._engine_room is None:
            raise RuntimeError("The worker is not set up.")
        self._executing.add(flow_run.id)
        try:
            execution = self._engine_room.start_task_soon(_execute, flow, flow_run)
            await asyncio.wrap_future(execution)
        finally:
            self._executing.discard(flow_run.id)
        return BatchCloseResult(status_code=0, identifier=str(flow_run.id))

    async def _submit_scheduled_flow_runs(
        self, flow_run_response: list[WorkerFlowRunResponse]
    ) -> list[FlowRun]:
        # A run that waits for a few seconds may come back before this process is done with ending
        # it. Prefect's worker would break over a run that it holds already.
        free = [it for it in flow_run_response if it.flow_run.id not in self._executing]
        return await super()._submit_scheduled_flow_runs(free)

    async def _propose_pending_state(self, flow_run: FlowRun) -> bool:
        self._held_lately.add(flow_run.id)
        # The state itself says who took the run: should this process die, others can tell.
        try:
            taken: State[None] = Pending(message=f"Taken by {self._me}")
            state = await propose_state(self.client, taken, flow_run_id=flow_run.id)
        except Abort:
            return False
        return state.is_pending()

    async def _give_worker_labels_to_flow_run(self, flow_run_id: UUID) -> None:
        labels: dict[str, bool | int | float | str] = {
            "prefect.worker.name": self.name,
            OWNER_LABEL: str(self._me),
        }
        await self.client.update_flow_run_labels(flow_run_id, labels)

    async def _load(self, flow_run: FlowRun) -> Flow[..., Any]:
        # Loaded once for each version deployed. A module that Python has imported stays as it is:
        # the worker is restarted to run a newer one.
        version = (flow_run.flow_id, flow_run.deployment_version)
        if version not in self._flows:
            self._flows[version] = await load_flow_from_flow_run(flow_run)
        return self._flows[version]


def _may_pass(error: httpx.HTTPError) -> bool:
    refused = isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error
    return not refused


async def _execute(flow: Flow[..., Any], flow_run: FlowRun) -> None:
    try:
        await run_flow_async(
            flow, flow_run=flow_run, parameters=flow_run.parameters, return_type="state"
        )
    except (Abort, Pause):
        return  # it waits, or somebody withdrew it
    except anyio.get_cancelled_exc_class():
        # The worker is stopping. Prefect's engine has marked the run as crashed by now.
        with anyio.CancelScope(shield=True):
            async with get_client() as client:
                await give_back(client, flow_run, "its worker was stopped")
        raise
