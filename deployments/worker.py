"""A Prefect worker that runs flows inside its own process.

The stock process worker starts a Python process for every piece of every run: seconds and 100 MB
each, for flows that mostly wait. This one imports each flow once and runs many at a time in one
event loop, never more than its limit. Start it like any other:

    prefect worker start --pool daily-orders --type batch-close
"""

from typing import Any
from uuid import UUID

import anyio.abc
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Abort, Pause
from prefect.flow_engine import run_flow_async
from prefect.flows import Flow, load_flow_from_flow_run
from prefect.workers.base import (
    BaseJobConfiguration,
    BaseVariables,
    BaseWorker,
    BaseWorkerResult,
)

RUNS_AT_ONCE = 16
"""Unless `--limit` says otherwise. Many more at once only drown the Prefect API's database."""


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
        super().__init__(work_pool_name, limit=limit or RUNS_AT_ONCE, **options)
        self._flows: dict[UUID, Flow[..., Any]] = {}

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
        try:
            await run_flow_async(
                flow, flow_run=flow_run, parameters=flow_run.parameters, return_type="state"
            )
        except (Abort, Pause):
            self._logger.debug("Flow run %s waits or was withdrawn.", flow_run.id)
        return BatchCloseResult(status_code=0, identifier=str(flow_run.id))

    async def _load(self, flow_run: FlowRun) -> Flow[..., Any]:
        # A flow is code: imported once. The worker is restarted to run newer code.
        if flow_run.flow_id not in self._flows:
            loaded = await load_flow_from_flow_run(flow_run)
            self._flows[flow_run.flow_id] = loaded
        return self._flows[flow_run.flow_id]
