"""The outcome of a night whose run could not come as far as to record one."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.logging import get_logger

from blocks.binding import Binding
from blocks.outcome import LastBatch, Status
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.keeping import keep, only_writer_of
from flows.night import MAYBE_SENT
from flows.requests import NightError, read_request
from flows.waiting import PREFECT_TROUBLE


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
    """The flow's hook: record that the night was skipped, because somebody cancelled its run."""
    await record_instead(flow_run, "SKIPPED", state.message or "Its run was cancelled.")


async def record_instead(run: FlowRun, status: Status, reason: str) -> LastBatch | None:
    """Record the night of a run on its behalf; returns its outcome, or None if it is of no night.

    Where the run may have sent the close, the night has failed, and the reason says so.
    """
    binding = _binding(run.parameters)
    request = _request(binding, run.parameters) if binding else None
    occurrence = _occurrence(run, request)
    if binding is None or occurrence is None:
        return None
    async with only_writer_of(binding) as context:
        progress = context.progress_of(occurrence)
        outcome = LastBatch(
            batch_id=binding.batch_id,
            occurrence=occurrence,
            status="FAILED" if progress.closing_at else status,
            snapshot_id=progress.snapshot_id,
            run=request and request.recurrence.number_of(occurrence),
            max_runs=request and request.max_runs,
            reason=f"{reason} {MAYBE_SENT}" if progress.closing_at else reason,
        )
        outcome, _ = await keep(binding, context, outcome)
    return outcome


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
