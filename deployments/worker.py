"""A Prefect worker that runs flows inside its own process.

The stock process worker starts a Python process for every piece of every run: seconds and 100 MB
each, for flows that mostly wait. This one imports each flow once and runs many at a time in its
event loop, never more than its limit. It also finds the runs that a dead process left behind. Start
it like any other:

    prefect worker start --pool daily-orders --type batch-close
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import anyio
import anyio.abc
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.settings import (
    PREFECT_WORKER_CANCELLATION_POLL_SECONDS,
    PREFECT_WORKER_ENABLE_CANCELLATION,
    PREFECT_WORKER_QUERY_SECONDS,
    temporary_settings,
)
from prefect.workers.base import (
    BaseJobConfiguration,
    BaseVariables,
    BaseWorker,
    BaseWorkerResult,
)

from blocks import ownership
from blocks.claim import Claim
from blocks.lease import Lease, OwnershipLostError
from blocks.ownership import Work
from blocks.places import Places
from blocks.prefect_refusal import refusal_logged, why_prefect_refuses
from blocks.process import lease_seconds
from deployments.doors import warn_of_open_doors
from deployments.due import DueMoments
from deployments.execution import Execution, Executions
from deployments.prefect_client import shared_prefect_client
from deployments.queue import Queue
from deployments.readable import is_unreadable
from deployments.recovery import Looks, recover
from deployments.sigterm import until_sigterm
from deployments.stopped import LOOK_SECONDS, StoppedRuns
from deployments.sweep import Sweep, sweep_seconds
from deployments.unreadable import set_aside_unreadable

RUNS_AT_ONCE = 64
"""Unless `--limit` says otherwise. Many more at once only drown the Prefect API's database."""

HEARS_OF_CANCELLING = {
    PREFECT_WORKER_ENABLE_CANCELLATION: True,
    PREFECT_WORKER_CANCELLATION_POLL_SECONDS: 10,  # for when Prefect's events do not come through
}
"""What people expect, and Prefect leaves to the process that a run has elsewhere."""

HEARTBEAT_SECONDS = 10
"""How often a worker shows itself in Prefect's UI, and looks for runs that were left."""


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
        lease_seconds()  # refused now, rather than each time that one is begun
        self._places = Places(limit or RUNS_AT_ONCE)
        self._due = DueMoments()
        self._queue = Queue(work_pool_name, self._work_queues, limit or RUNS_AT_ONCE)
        self._looks = Looks()
        self._executions = Executions(self._places, self._due, self._logger, self._looks)
        self._lease: Lease | None = None
        self._has_recovered = False
        self._setting_aside = anyio.Lock()

    async def start(self, *args: Any, **options: Any) -> None:
        """Run until the process is told to end; takes what Prefect's own worker takes."""
        with until_sigterm():
            await super().start(*args, **options)

    async def setup(self) -> None:
        """Prepare the worker, and the one API client that all its runs share."""
        self._exit_stack.enter_context(temporary_settings(HEARS_OF_CANCELLING))
        with refusal_logged(self._logger):
            await self._exit_stack.enter_async_context(shared_prefect_client())
        # Outlives the runs: what is handed over at the end is this process's until then.
        await self._exit_stack.enter_async_context(self._leased())
        await super().setup()
        self._executions.observer = self._cancelling_observer
        self._runs.start_soon(self._serve)
        self._runs.start_soon(self._record_stopped)
        self._runs.start_soon(self._sweep)
        self._runs.start_soon(warn_of_open_doors, self._logger)

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Look ahead: when runs fall due. Nothing is submitted here."""
        try:
            return await super().get_and_submit_flow_runs()
        except Exception as error:  # noqa: BLE001  (see there)
            self._wait_for_prefect(error)
            await self._set_aside_after(error)
            return []

    async def sync_with_backend(self) -> None:
        """Show the worker in Prefect, and give back what dead processes left behind."""
        try:
            await super().sync_with_backend()
        except Exception as error:  # noqa: BLE001  (see there)
            self._wait_for_prefect(error)
            return
        try:
            await self._recover()
            await self._executions.notice_cancelling(self.client, self._work_pool_name)
        except (Exception, OwnershipLostError) as trouble:  # noqa: BLE001  (there is a next time)
            kind = type(trouble).__name__
            self._logger.warning("Runs that were left are not looked for now (%s).", kind)
            await self._set_aside_after(trouble)

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

    @asynccontextmanager
    async def _leased(self) -> AsyncIterator[None]:
        first = asyncio.Event()
        keeping = asyncio.create_task(self._keep_leases(first))
        with anyio.move_on_after(HEARTBEAT_SECONDS):  # or Prefect is away, and it comes later
            await first.wait()
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep_leases(self, first: asyncio.Event) -> None:
        """Keep a lease, and begin another one whenever it was lost: it is another process then."""
        while True:
            try:
                async with Lease(self.name).kept() as self._lease:
                    first.set()
                    await self._lease.lost.wait()
                    self._executions.drop(under=self._lease)
                    self._looks.soon()
            except (Exception, OwnershipLostError) as error:  # noqa: BLE001  (it is tried again)
                self._logger.warning("No lease is given (%s).", type(error).__name__)
                await asyncio.sleep(1)
            self._lease = None

    async def _recover(self) -> None:
        if (lease := self._lease) is None or not self._looks.is_due(lease.departed):
            return
        seen = self._looks.begin(lease.departed)
        # What is claimed while Prefect answers how things stood a while ago was not left either.
        held = {*self._executions.run_ids, *self._queue.claiming}
        self._queue.claimed_lately = claimed_lately = set[UUID]()
        with ownership.working(Work(lease)):

            def is_held(run_id: UUID) -> bool:
                return run_id in held or run_id in claimed_lately

            pool, looks = self._work_pool_name, self._looks
            await recover(self.client, pool, lease.process.id, is_held, looks.soon)
        self._looks.done(seen)
        self._has_recovered = True

    async def _record_stopped(self) -> None:
        stopped = StoppedRuns()
        while True:
            await anyio.sleep(LOOK_SECONDS)
            if (lease := self._lease) is None:
                continue
            try:
                with ownership.working(Work(lease)):
                    await stopped.record(self.client, self._work_pool_name)
            except (Exception, OwnershipLostError) as trouble:  # noqa: BLE001  (there is a next time)
                self._logger.warning(
                    "Stopped runs are not looked for (%s).", type(trouble).__name__
                )
                await self._set_aside_after(trouble)

    async def _set_aside_after(self, error: BaseException) -> None:
        """Set aside what cannot be read, if that may be why Prefect's answer failed."""
        if not is_unreadable(error) or self._setting_aside.locked():
            return
        async with self._setting_aside:
            try:
                await set_aside_unreadable(self.client, self._work_pool_name)
            except Exception as trouble:  # noqa: BLE001  (there is a next time)
                kind = type(trouble).__name__
                self._logger.warning("Unreadable runs are not set aside now (%s).", kind)

    async def _sweep(self) -> None:
        seconds, sweep = sweep_seconds(), Sweep()
        while True:
            await anyio.sleep(seconds)
            if (lease := self._lease) is None:
                continue
            # Who was given up meanwhile looks again under its next lease.
            with suppress(OwnershipLostError), ownership.working(Work(lease)):
                if trouble := await sweep.look(self.client):
                    await self._set_aside_after(trouble)

    def _wait_for_prefect(self, error: Exception) -> None:
        """Go on: Prefect's own loop would end the worker after a few of these.

        With it would go what its runs have in memory only, a rotated refresh token for one. What
        stands before a Prefect server that is being replaced answers anything, 404 and pages, too.
        """
        if refusal := why_prefect_refuses(error):
            self._logger.error("%s", refusal)
        if not self._has_successfully_synced:
            raise error
        if not refusal:
            self._logger.warning("Prefect's API is away (%s); trying again.", type(error).__name__)

    async def _submit_scheduled_flow_runs(
        self, flow_run_response: list[WorkerFlowRunResponse]
    ) -> list[FlowRun]:
        """Remember when runs fall due. They are claimed then, a few at a time.

        Prefect's worker would take as many as there are places, and look away for ten seconds.
        """
        moments = (it.flow_run.next_scheduled_start_time for it in flow_run_response)
        self._due.add(moment for moment in moments if moment)
        return []

    async def _serve(self) -> None:
        """Claim the runs that are due, a few at a time, and execute them as places become free."""
        while True:
            try:
                claimed = await self._claim_due()
            except (Exception, OwnershipLostError) as error:  # noqa: BLE001  (it is tried again)
                self._logger.warning("Runs are not claimed (%s).", type(error).__name__)
                self._looks.soon()  # what was claimed may never be heard of
                await self._set_aside_after(error)
                await anyio.sleep(1)
                continue
            for execution in claimed:
                self._runs.start_soon(self._executions.carry_out, execution, self.client)
            if claimed:
                async with self._places.one():
                    pass  # all those before have one
            else:
                await self._due.wait(at_most=PREFECT_WORKER_QUERY_SECONDS.value())

    async def _claim_due(self) -> list[Execution]:
        lease = self._lease
        if lease is None or not self._has_recovered or self._executions.is_full:
            return []  # what was left behind has waited longest
        mark = Claim(self.name, lease.process.id)
        claimed = await self._queue.claim(self.client, lease, mark, self._executions.run_ids)
        return [self._executions.hold(run, Work(lease, run.id), mark) for run in claimed]

    async def _cancel_run(self, flow_run_id: UUID) -> None:
        # Prefect tells every worker of the pool; it is this one's run if it is executed here.
        self._executions.cancel(flow_run_id)
