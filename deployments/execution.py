"""The runs that this process executes: each from its claim until its end or its next wait."""

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import anyio
import httpx
from cachetools import LRUCache
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.flows import Flow
from prefect.states import Crashed

from blocks import ownership
from blocks.claim import Claim
from blocks.lease import Lease, OwnershipLostError, OwnershipUnknownError
from blocks.ownership import Work
from blocks.places import Places
from deployments.claims import show_as_running
from deployments.due import DueMoments
from deployments.engine import end_cancelled, execute
from deployments.loading import CannotLoadError, LoadedFlows
from deployments.recovery import Looks, give_back
from flows.unopened import record_unstarted
from flows.waiting import PREFECT_TROUBLE

SLOW_AFTER = 4.0
"""Seconds after which a run that goes on is shown as Running."""

INTERRUPTIONS = 3
"""How often a run is given back that is interrupted by what has nothing to do with Prefect."""

GIVEN_BACK_WITHIN = 15.0
"""Seconds in which a worker that is told to stop gives its runs back; then others find them."""

MOST_UNDER_WAY = 1_000
"""Runs that are executed or wait for a place: more belong to other workers, or wait in Prefect.
Those that wait for a moment are not counted: they take some kilobytes each."""

AWAY = (httpx.HTTPError, OwnershipUnknownError)
"""What Prefect's API being away looks like."""


@dataclass
class Execution:
    """A run that this process has claimed, until its end or its next wait."""

    run: FlowRun
    work: Work
    claim: Claim
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


class Observer(Protocol):
    """What a Prefect worker has that listens for cancelled runs."""

    def add_in_flight_flow_run_id(self, flow_run_id: UUID) -> None:
        """Listen for this run."""

    def remove_in_flight_flow_run_id(self, flow_run_id: UUID) -> None:
        """Listen for it no more."""


class Executions:
    """All of them, a few at a time.

    Args:
        places: Where they are executed at once.
        due: Told when a run that waits falls due.
        logger: The worker's.
        looks: Told when a run is left.
    """

    def __init__(self, places: Places, due: DueMoments, logger: Logger, looks: Looks) -> None:
        self._places, self._due, self._logger, self._looks = places, due, logger, looks
        self._flows = LoadedFlows()
        self._under_way: dict[UUID, Execution] = {}
        self._interrupted: LRUCache[UUID, int] = LRUCache(1_000)
        self.observer: Observer | None = None
        """Prefect's own, which tells of runs that are cancelled."""

    @property
    def run_ids(self) -> set[UUID]:
        """The runs that are executed or about to be."""
        return {*self._under_way}

    @property
    def is_full(self) -> bool:
        """Whether so many wait for a place, of one tenant then, that no more are to be claimed."""
        return len(self._under_way) - self._places.left >= MOST_UNDER_WAY

    def hold(self, run: FlowRun, work: Work, claim: Claim) -> Execution:
        """Take note of a run that was claimed: `carry_out` has to follow."""
        self._under_way[run.id] = execution = Execution(run, work, claim)
        if self.observer:
            self.observer.add_in_flight_flow_run_id(run.id)
        return execution

    async def carry_out(self, execution: Execution, client: PrefectClient) -> None:
        """Execute a run that was claimed, up to its end or its next wait."""
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._show_if_slow, execution, client)
            try:
                await self._execute(execution, client)
            except OwnershipLostError as lost:
                self._logger.info("Run %s is left: %s", execution.run.name, lost)
            except Exception as error:
                self._looks.soon()  # and it is given back
                self._logger.exception("Run %s was interrupted.", execution.run.name)
                if not isinstance(error, PREFECT_TROUBLE):
                    await self._end_if_hopeless(execution, type(error).__name__, client)
            finally:
                beside.cancel_scope.cancel()

    def cancel(self, run_id: UUID) -> None:
        """Stop a run that somebody cancelled, if it is executed here."""
        if execution := self._under_way.get(run_id):
            execution.scope.cancel()

    def drop(self, *, under: Lease) -> None:
        """Stop what was claimed under a lease that was lost."""
        for execution in self._under_way.values():
            if execution.work.lease is under:
                execution.scope.cancel()

    async def notice_cancelling(self, client: PrefectClient, pool: str) -> None:
        """Stop what somebody cancelled: Prefect's own observer is deaf after a long outage."""
        if not self._under_way:
            return
        kinds = FlowRunFilterStateType(any_=[StateType.CANCELLING])
        for run in await client.read_flow_runs(
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=kinds)),
        ):
            self.cancel(run.id)

    async def _execute(self, execution: Execution, client: PrefectClient) -> None:
        run, flow = execution.run, None
        try:
            with execution.scope:
                async with self._places.one(str(run.parameters.get("tenant_id", ""))):
                    with ownership.working(execution.work):
                        if flow := await self._load(run, client):
                            await self._execute_flow(flow, run, client)
        except anyio.get_cancelled_exc_class():
            with (
                anyio.move_on_after(GIVEN_BACK_WITHIN, shield=True),
                suppress(*AWAY, OwnershipLostError),
                ownership.working(execution.work),
            ):
                await give_back(client, run, "its worker was stopped")
            raise
        finally:
            self._let_go(run)
            if run.state is None or not (run.state.is_final() or run.state.is_scheduled()):
                self._looks.soon()  # whoever stopped it may have left it to nobody
        if execution.scope.cancel_called and not execution.work.lease.is_lost:
            with ownership.working(Work(execution.work.lease)):
                await end_cancelled(flow, run, client)

    def _let_go(self, run: FlowRun) -> None:
        del self._under_way[run.id]
        if self.observer:
            self.observer.remove_in_flight_flow_run_id(run.id)

    async def _execute_flow(
        self, flow: Flow[..., Any], run: FlowRun, client: PrefectClient
    ) -> None:
        await execute(flow, run, client)
        if run.state and run.state.is_scheduled() and run.state.state_details.scheduled_time:
            self._due.add([run.state.state_details.scheduled_time])

    async def _load(self, run: FlowRun, client: PrefectClient) -> Flow[..., Any] | None:
        try:
            return await self._flows.of(run)
        except CannotLoadError as error:
            self._logger.exception("The flow of run %s cannot be loaded.", run.name)
            await _end_unexecuted(run, str(error), client)
            return None

    async def _show_if_slow(self, execution: Execution, client: PrefectClient) -> None:
        await anyio.sleep(SLOW_AFTER)
        if execution.run.state is None or not execution.run.state.is_pending():
            return
        try:
            with ownership.working(execution.work):
                await show_as_running(client, execution.run, execution.claim)
        except (*AWAY, OwnershipLostError, ValueError) as error:
            self._logger.warning("%s is not shown (%s).", execution.run.name, type(error).__name__)

    async def _end_if_hopeless(
        self, execution: Execution, kind: str, client: PrefectClient
    ) -> None:
        """End a run that is interrupted each time: it would be begun again for ever."""
        run, lease = execution.run, execution.work.lease
        self._interrupted[run.id] = times = self._interrupted.get(run.id, 0) + 1
        if times < INTERRUPTIONS or lease.is_lost:
            return
        with suppress(*PREFECT_TROUBLE, OwnershipLostError), ownership.working(Work(lease)):
            why = f"{kind} interrupted it {times} times: see the log."
            await _end_unexecuted(run, why, client)


async def _end_unexecuted(run: FlowRun, why: str, client: PrefectClient) -> None:
    crashed: State[None] = Crashed(message=why)
    await record_unstarted(run, why)
    await client.set_flow_run_state(run.id, crashed, force=True)
