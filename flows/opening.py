"""The beginning of a run: which night it is for, and what earlier runs of that have done."""

from datetime import datetime

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from blocks import clock, ownership, standing
from blocks import context as contexts
from blocks import grant as grants
from blocks.binding import Binding
from blocks.outcome import LastBatch
from blocks.places import is_beside_others
from blocks.run_states import was_asked_for_again
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.durations import parse_wait
from flows.keeping import recorded
from flows.night import Night
from flows.requests import NightError, configured_now, read_request


class SettledError(Exception):
    """Another run has closed the night while this one waited."""

    def __init__(self, outcome: LastBatch) -> None:
        super().__init__(f"The night is {outcome.status} already.")
        self.outcome = outcome


class NothingDueError(NightError):
    """No occurrence of the binding has come yet."""


async def open_night(binding: Binding, configured: object) -> Night:
    """Find the night that this run is for, and what earlier runs of it have done.

    Args:
        binding: Whose night it is.
        configured: The request as it is stored with the run; None for what is configured now.

    Raises NotConfiguredError, UnreadableRequestError and NothingDueError.
    """
    flow = FlowRunContext.get()
    run = flow.flow_run if flow else None
    if run and run.state and not run.state.is_scheduled() and not is_beside_others():
        # When the server had it begin, a moment ago. A worker has compared that when it claimed it.
        clock.compare(run.state.timestamp)
    asked_for = None if configured is None else read_request(binding, configured)
    request = asked_for or await configured_now(binding)
    occurrence = _occurrence(binding, request, run)
    context = await contexts.load(binding)
    night = Night(
        binding,
        request,
        occurrence,
        context,
        run_id=run.id if run else None,
        laid_out_at=_plain(run.created) if run else None,
        by_schedule=run is not None and run.auto_scheduled,
        is_deployed=run is not None and run.deployment_id is not None,
        is_again=run is not None and run.start_time is not None,
    )
    await _read_outcome(night)
    await _read_own_end(night)
    if night.by_schedule and request.recurrence.number_of(occurrence) is None:
        night.is_as_configured = False
        await _read_next(night)
    night.is_refreshed = bool(night.snapshot_id) or grants.was_refreshed(binding, since=occurrence)
    return night


def upstream_done_at(run: FlowRun) -> datetime | None:
    """Until when the night of a run that is about to begin waits for upstream systems.

    None where its parameters do not tell.
    """
    configured = run.parameters.get("configured")
    if run.expected_start_time is None or not isinstance(configured, dict):
        return None
    try:
        wait = parse_wait(configured.get("upstreamWaitDuration"))
        return datetime.fromisoformat(run.expected_start_time.isoformat()) + wait
    except (ValueError, OverflowError):
        return None


async def read_again(night: Night) -> None:
    """Read what is stored of the night by now; raises SettledError if it is closed."""
    await ownership.require()  # or a run that was suspended meanwhile would record something
    night.context = await contexts.load(night.binding)
    await _read_outcome(night)
    if night.settled:
        raise SettledError(night.settled)
    await _read_next(night)


async def _read_outcome(night: Night) -> None:
    """How the night ended, as far as that is recorded."""
    night.recorded = await recorded(night.binding, night.context, night.occurrence)
    if not night.settled and (closed_at := night.progress.closed_at):
        night.recorded = night.ended("CLOSED", closed_at=closed_at)


async def _read_own_end(night: Night) -> None:
    """Whether this run had recorded that its night was not closed when its worker was stopped."""
    if night.run_id is None or night.recorded is None or night.recorded.ok:
        return
    if night.recorded.flow_run_id == night.run_id and not await was_asked_for_again(night.run_id):
        night.has_ended = True
        grant = await grants.find(night.binding)  # what follows from a lost one may not be done yet
        night.grant_lost = grant.lost_because if grant else None


async def _read_next(night: Night) -> None:
    """When the next night is due, where somebody edited the schedule in Prefect."""
    if not night.is_as_configured:
        stands = await standing.read(night.binding)
        night.next_laid_out = await stands.next_night_after(night.occurrence) if stands else None
        vars(night).pop("next_due", None)


def _occurrence(
    binding: Binding, request: DailyOrdersBatchCloseConfigRequest, run: FlowRun | None
) -> datetime:
    """The scheduled start; where somebody started the run, the latest occurrence before that."""
    planned = run.expected_start_time if run else None
    start = _plain(planned) or clock.now()
    # A run that the schedule laid out before the binding was configured anew is no occurrence of
    # the new recurrence, but it is a night that was promised all the same. One that it laid out
    # only afterwards is none: that is found out where somebody may have stopped the night.
    if run and run.auto_scheduled:
        return start
    if latest := request.recurrence.latest_at(start):
        return latest
    raise NothingDueError(
        f"Nothing is due for {binding} yet: its first close is due at"
        f" {request.recurrence.first.isoformat()}."
    )


def _plain(moment: datetime | None) -> datetime | None:
    """A plain datetime, because pendulum's own class divides differently."""
    return datetime.fromisoformat(moment.isoformat()) if moment else None
