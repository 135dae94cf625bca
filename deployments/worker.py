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
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import anyio
import anyio.abc
import httpx
from cachetools import LRUCache
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.flows import Flow
from prefect.settings import (
    PREFECT_WORKER_CANCELLATION_POLL_SECONDS,
    PREFECT_WORKER_ENABLE_CANCELLATION,
    PREFECT_WORKER_QUERY_SECONDS,
    temporary_settings,
)
from prefect.states import Crashed
from prefect.workers.base import (
    BaseJobConfiguration,
    BaseVariables,
    BaseWorker,
    BaseWorkerResult,
)

from blocks import clock, ownership
from blocks.claim import Claim
from blocks.lease import Lease, OwnershipLostError, OwnershipUnknownError
from blocks.ownership import Work
from blocks.places import Places
from blocks.prefect_refusal import refusal_logged, why_prefect_refuses
from blocks.process import lease_seconds
from blocks.proposals import AT_ONCE
from deployments.claims import claim, show_as_running
from deployments.doors import warn_of_open_doors
from deployments.due import DueMoments
from deployments.engine import end_cancelled, execute
from deployments.loading import CannotLoadError, LoadedFlows
from deployments.prefect_client import shared_prefect_client
from deployments.readable import is_unreadable
from deployments.recovery import give_back, recover
from deployments.stopped import LOOK_SECONDS, StoppedRuns
from deployments.sweep import Sweep, sweep_seconds
from deployments.undeployed import end_undeployed
from deployments.unreadable import set_aside_unreadable
from flows.unopened import record_unstarted
from flows.waiting import PREFECT_TROUBLE

RUNS_AT_ONCE = 32
"""Unless `--limit` says otherwise. Many more at once only drown the Prefect API's database."""

HEARS_OF_CANCELLING = {
    PREFECT_WORKER_ENABLE_CANCELLATION: True,
    PREFECT_WORKER_CANCELLATION_POLL_SECONDS: 10,  # for when Prefect's events do not come through
}
"""What people expect, and Prefect leaves to the process that a run has elsewhere."""

HEARTBEAT_SECONDS = 10
"""How often a worker shows itself in Prefect's UI, and looks for runs that were left."""

SLOW_AFTER = 4.0
"""Seconds after which a run that goes on is shown as Running."""

INTERRUPTIONS = 3
"""How often a run is given back that is interrupted by what has nothing to do with Prefect."""

MOST_ASKED_FOR = 200
"""As many runs as Prefect's API tells of at once."""

AWAY = (httpx.HTTPError, OwnershipUnknownError)
"""What Prefect's API being away looks like."""


@dataclass
class Execution:
    """A run that this process has claimed, until its end or its next wait."""

    run: FlowRun
    work: Work
    claim: Claim
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


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
        self._batch = min(limit or RUNS_AT_ONCE, AT_ONCE)
        self._places = Places(limit or RUNS_AT_ONCE)
        self._due = DueMoments()
        self._flows = LoadedFlows()
        self._lease: Lease | None = None
        self._executing: dict[UUID, Execution] = {}
        self._held_lately: set[UUID] = set()
        self._claiming: set[UUID] = set()
        self._unclaimed: set[UUID] = set()
        self._has_recovered = False
        self._setting_aside = anyio.Lock()
        self._interrupted: LRUCache[UUID, int] = LRUCache(1_000)

    async def setup(self) -> None:
        """Prepare the worker, and the one API client that all its runs share."""
        self._exit_stack.enter_context(temporary_settings(HEARS_OF_CANCELLING))
        with refusal_logged(self._logger):
            await self._exit_stack.enter_async_context(shared_prefect_client())
        # Outlives the runs: what is handed over at the end is this process's until then.
        await self._exit_stack.enter_async_context(self._leased())
        await super().setup()
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
            await self._notice_cancelling()
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
                    self._drop_what_was_claimed(under=self._lease)
            except (Exception, OwnershipLostError) as error:  # noqa: BLE001  (it is tried again)
                self._logger.warning("No lease is given (%s).", type(error).__name__)
                await asyncio.sleep(1)
            self._lease = None

    def _drop_what_was_claimed(self, *, under: Lease) -> None:
        for execution in self._executing.values():
            if execution.work.lease is under:
                execution.scope.cancel()

    async def _recover(self) -> None:
        if (lease := self._lease) is None:
            return
        # Grows with every run that is claimed while Prefect answers how things stood a while ago.
        self._held_lately = self._claiming | set(self._executing)
        with ownership.working(Work(lease)):
            is_held = self._held_lately.__contains__
            await recover(self.client, self._work_pool_name, lease.process.id, is_held)
        self._has_recovered = True

    async def _notice_cancelling(self) -> None:
        """Cancel what somebody cancelled: Prefect's own observer is deaf after a long outage."""
        if not self._executing:
            return
        kinds = FlowRunFilterStateType(any_=[StateType.CANCELLING])
        wanted = FlowRunFilter(
            id=FlowRunFilterId(any_=[*self._executing]), state=FlowRunFilterState(type=kinds)
        )
        for run in await self.client.read_flow_runs(flow_run_filter=wanted):
            await self._cancel_run(run.id)

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
                await self._set_aside_after(error)
                await anyio.sleep(1)
                continue
            for execution in claimed:
                self._runs.start_soon(self._carry_out, execution)
            if claimed:
                async with self._places.one():
                    pass  # all those before have one
            else:
                await self._due.wait(at_most=PREFECT_WORKER_QUERY_SECONDS.value())

    async def _claim_due(self) -> list[Execution]:
        """Claim runs that are due, if any are.

        Prefect is asked right before which they are: it leaves out those of a paused work pool or
        queue, and what exceeds their limits.
        """
        lease = self._lease
        if lease is None or not self._has_recovered:  # what was left behind has waited longest
            return []
        found = await self._find_due()
        # From before they are claimed, or they would seem to have been left behind.
        self._claiming = {run.id for run in found}
        self._held_lately |= self._claiming
        try:
            mark = Claim(self.name, lease.process.id)
            # What is claimed while the worker is told to stop has to be given back.
            with anyio.CancelScope(shield=True), ownership.working(Work(lease)):
                claimed = await claim(self.client, found, mark)
        finally:
            self._claiming = set()
        with ownership.working(Work(lease)):
            await self._end_what_nobody_can_claim(found, claimed)
        return [self._hold(run, Work(lease, run.id), mark) for run in claimed]

    async def _end_what_nobody_can_claim(
        self, tried: list[FlowRun], claimed: list[FlowRun]
    ) -> None:
        """End what was due twice and could not be claimed, if its deployment was deleted.

        Once is nothing: another worker may have been quicker.
        """
        left = {run.id for run in tried} - {run.id for run in claimed}
        again = [run for run in tried if run.id in left & self._unclaimed]
        self._unclaimed |= left
        if again:
            with suppress(*AWAY):  # what was claimed has to be executed
                await end_undeployed(self.client, again)

    async def _find_due(self) -> list[FlowRun]:
        """The runs that are due, no more than can be claimed; those first that never failed to be.

        What cannot be claimed stays at the head of Prefect's queue: it is asked for besides.
        """
        due = await self._read_due(min(self._batch + len(self._unclaimed), MOST_ASKED_FOR))
        self._unclaimed &= {run.id for run in due}
        due = [run for run in due if run.id not in self._executing]
        return sorted(due, key=lambda run: run.id in self._unclaimed)[: self._batch]

    async def _read_due(self, most: int) -> list[FlowRun]:
        # Not with the client's own function, which asks for 200 at a time.
        answer = await self.client.request(
            "POST",
            "/work_pools/{name}/get_scheduled_flow_runs",
            path_params={"name": self._work_pool_name},
            json={
                "work_queue_names": list(self._work_queues) or None,
                "scheduled_before": clock.now().isoformat(),
                "limit": most,
            },
        )
        return [run.flow_run for run in WorkerFlowRunResponse.model_validate_list(answer.json())]

    async def _carry_out(self, execution: Execution) -> None:
        """Execute a run that was claimed, up to its end or its next wait."""
        self._runs.start_soon(self._show_if_slow, execution)
        try:
            await self._execute(execution)
        except OwnershipLostError as lost:
            self._logger.info("Run %s is left: %s", execution.run.name, lost)
        except Exception as error:
            # It is given back at the next look for what was left.
            self._logger.exception("Run %s was interrupted.", execution.run.name)
            if not isinstance(error, PREFECT_TROUBLE):
                await self._end_if_hopeless(execution, type(error).__name__)

    async def _execute(self, execution: Execution) -> None:
        run, flow = execution.run, None
        try:
            with execution.scope:
                async with self._places.one():
                    with ownership.working(execution.work):
                        if flow := await self._load(run):
                            await self._execute_flow(flow, run)
        except anyio.get_cancelled_exc_class():
            with (
                anyio.CancelScope(shield=True),
                suppress(*AWAY, OwnershipLostError),
                ownership.working(execution.work),
            ):
                await give_back(self.client, run, "its worker was stopped")
            raise
        finally:
            self._let_go(run.id)
        if execution.scope.cancel_called and not execution.work.lease.is_lost:
            with ownership.working(Work(execution.work.lease)):
                await end_cancelled(flow, run, self.client)

    async def _end_if_hopeless(self, execution: Execution, kind: str) -> None:
        """End a run that is interrupted each time: it would be begun again for ever."""
        run, lease = execution.run, execution.work.lease
        self._interrupted[run.id] = times = self._interrupted.get(run.id, 0) + 1
        if times < INTERRUPTIONS or lease.is_lost:
            return
        with suppress(*PREFECT_TROUBLE, OwnershipLostError), ownership.working(Work(lease)):
            await self._end_unexecuted(run, f"{kind} interrupted it {times} times: see the log.")

    async def _end_unexecuted(self, run: FlowRun, why: str) -> None:
        crashed: State[None] = Crashed(message=why)
        await record_unstarted(run, why)
        await self.client.set_flow_run_state(run.id, crashed, force=True)

    async def _execute_flow(self, flow: Flow[..., Any], run: FlowRun) -> None:
        await execute(flow, run, self.client)
        if run.state and run.state.is_scheduled() and run.state.state_details.scheduled_time:
            self._due.add([run.state.state_details.scheduled_time])

    async def _show_if_slow(self, execution: Execution) -> None:
        await anyio.sleep(SLOW_AFTER)
        if self._executing.get(execution.run.id) is not execution:
            return
        try:
            with ownership.working(execution.work):
                await show_as_running(self.client, execution.run, execution.claim)
        except (*AWAY, OwnershipLostError, ValueError) as error:
            self._logger.warning("%s is not shown (%s).", execution.run.name, type(error).__name__)

    def _hold(self, run: FlowRun, work: Work, mark: Claim) -> Execution:
        self._executing[run.id] = execution = Execution(run, work, mark)
        if self._cancelling_observer:
            self._cancelling_observer.add_in_flight_flow_run_id(run.id)
        return execution

    def _let_go(self, run_id: UUID) -> None:
        del self._executing[run_id]
        if self._cancelling_observer:
            self._cancelling_observer.remove_in_flight_flow_run_id(run_id)

    async def _cancel_run(self, flow_run_id: UUID) -> None:
        # Prefect tells every worker of the pool; it is this one's run if it is executed here.
        if execution := self._executing.get(flow_run_id):
            execution.scope.cancel()

    async def _load(self, flow_run: FlowRun) -> Flow[..., Any] | None:
        try:
            return await self._flows.of(flow_run)
        except CannotLoadError as error:
            self._logger.exception("The flow of run %s cannot be loaded.", flow_run.name)
            await self._end_unexecuted(flow_run, str(error))
            return None
