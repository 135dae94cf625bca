"""The outcome of a night whose run could not come as far as to record one."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.logging import get_logger

from blocks import clock, standing
from blocks import context as contexts
from blocks.binding import Binding
from blocks.context import Progress
from blocks.outcome import LastBatch, Status, ended_as, says_closed, says_skipped
from blocks.quoting import quotable
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.keeping import keep, only_writer_of, recorded
from flows.last_night import end_if_last
from flows.night import MAYBE_SENT
from flows.requests import NightError, read_request
from flows.waiting import PREFECT_TROUBLE

BRIEFLY = 5.0
"""Seconds to wait for a binding's lock where the nights of others have to be looked at too."""


async def record_unstarted(run: FlowRun, reason: str) -> None:
    """Record that the run's night failed, because the run could not be executed at all.

    Nothing is done for a run that is of no night, or of one that is recorded as closed.

    Raises PREFECT_TROUBLE, and nothing else: what else cannot be recorded is in the log.
    """
    try:
        await record_instead(run, "FAILED", reason)
    except PREFECT_TROUBLE:
        raise
    except Exception:  # noqa: BLE001  (the run ends either way)
        get_logger("unopened").exception("The night of run %s is not recorded.", run.name)


async def record_cancelled(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001
    """The flow's hook: record that the night was skipped, because somebody cancelled its run.

    The last night ends the binding, as one does that was closed.
    """
    outcome = await record_instead(flow_run, "SKIPPED", state.message or "Its run was cancelled.")
    await _end_if_last(flow_run, outcome)


async def record_failed(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001
    """The flow's hook: record that the night failed, where its run could not do so itself.

    A parameter that the flow does not have ends a run before its first line. A night that recorded
    its outcome costs a read, or two where a later night has ended already.
    """
    known = await _known_of(flow_run)
    if known is None or known.inferred or known.status == "SKIPPED":
        await record_instead(
            flow_run, "FAILED", quotable(state.message, limit=500) or "Its run failed."
        )


async def record_ended(run: FlowRun) -> None:
    """Record the night of a run that was ended in Prefect, unless an outcome of it is recorded.

    The last night ends the binding, as one does that was closed.
    """
    state = run.state
    if state is None or says_closed(state) or says_skipped(state):
        return
    outcome = await _known_of(run)
    if outcome is None:
        outcome = await record_instead(run, *ended_as(state), patience=BRIEFLY)
    await _end_if_last(run, outcome, patience=BRIEFLY)


async def _end_if_last(
    run: FlowRun, outcome: LastBatch | None, *, patience: float | None = None
) -> None:
    which = _Which.of(run)
    if which and outcome and outcome.status == "SKIPPED" and which.may_be_last:
        await end_if_last(which.binding, outcome, patience=patience)


async def _known_of(run: FlowRun) -> LastBatch | None:
    if (which := _Which.of(run)) is None:
        return None
    context = await contexts.load(which.binding)
    return await recorded(which.binding, context, which.occurrence)


async def record_instead(
    run: FlowRun, status: Status, reason: str, *, patience: float | None = None
) -> LastBatch | None:
    """Record the night of a run on its behalf; returns its outcome.

    Where the run may have sent the close, the night has failed, and the reason says so. None is
    returned, and nothing recorded, if the run is of no night, or if its night is to be skipped
    while another run of it has not ended: that one will tell. Raises LockedError where somebody
    else writes of the binding for longer than `patience`, in seconds.
    """
    which = _Which.of(run)
    if which is None or (status == "SKIPPED" and await which.has_others_than(run)):
        return None
    async with only_writer_of(which.binding, patience=patience) as context:
        outcome = which.outcome_of(context.progress_of(which.occurrence), status, reason)
        outcome, _ = await keep(which.binding, context, outcome)
    return outcome


@dataclass(frozen=True)
class _Which:
    """The night that a run is for, as far as its parameters tell."""

    binding: Binding
    occurrence: datetime
    request: DailyOrdersBatchCloseConfigRequest | None

    @classmethod
    def of(cls, run: FlowRun) -> "_Which | None":
        binding = _binding(run.parameters)
        request = _request(binding, run.parameters) if binding else None
        occurrence = _occurrence(run, request)
        return cls(binding, occurrence, request) if binding and occurrence else None

    @property
    def may_be_last(self) -> bool:
        """Whether no further night was scheduled with this one, as it was configured."""
        recurrence = self.request.recurrence if self.request else None
        return recurrence is not None and self.occurrence == recurrence.last

    def outcome_of(self, progress: Progress, status: Status, reason: str | None) -> LastBatch:
        if progress.closed_at:
            status, reason = "CLOSED", None
        elif progress.closing_at:
            status, reason = "FAILED", f"{reason} {MAYBE_SENT}"
        return LastBatch(
            batch_id=self.binding.batch_id,
            occurrence=self.occurrence,
            status=status,
            snapshot_id=progress.snapshot_id,
            closed_at=progress.closed_at,
            run=self.request and self.request.recurrence.number_of(self.occurrence),
            max_runs=self.request and self.request.max_runs,
            reason=reason,
        )

    async def has_others_than(self, run: FlowRun) -> bool:
        """Whether another run of this night has not ended."""
        stands = await standing.read(self.binding)
        if stands is None:
            return False
        due = self.request and self.request.recurrence.after(self.occurrence, bounded=False)
        now = _request(self.binding, stands.parameters)  # what a run started by hand is for
        return any(
            it.state and not it.state.is_final()
            for it in await stands.runs_between(self.occurrence, due or clock.now())
            if it.id != run.id
            and _occurrence(it, _request(self.binding, it.parameters) or now) == self.occurrence
        )


def _binding(parameters: Mapping[str, Any]) -> Binding | None:
    tenant_id, batch_id = parameters.get("tenant_id"), parameters.get("batch_id")
    if isinstance(tenant_id, str) and isinstance(batch_id, str):
        return Binding(tenant_id, batch_id)
    return None


def _request(
    binding: Binding, parameters: Mapping[str, Any]
) -> DailyOrdersBatchCloseConfigRequest | None:
    with suppress(NightError):
        return read_request(binding, parameters.get("configured"))
    return None


def _occurrence(
    run: FlowRun, request: DailyOrdersBatchCloseConfigRequest | None
) -> datetime | None:
    """Which night the run is for; one that somebody started is for the latest that had come."""
    if run.expected_start_time is None:
        return None
    started_for = datetime.fromisoformat(run.expected_start_time.isoformat())
    if run.auto_scheduled:
        return started_for
    return request.recurrence.latest_at(started_for) if request else None
