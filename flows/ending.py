"""The end of a night: its outcome is recorded, whatever it is, and is what the run's state says."""

import asyncio
from contextlib import suppress
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.states import Completed, Failed

from blocks import deployment, systems
from blocks import grant as grants
from blocks.outcome import LastBatch
from flows.keeping import note, record
from flows.night import Night
from flows.step import step
from flows.unopened import record_instead
from flows.waiting import PREFECT_TROUBLE

KEPT_WITHIN = 5.0
"""Seconds in which a close that cannot be recorded is noted, or not."""


@step
async def record_batch_outcome(night: Night, outcome: LastBatch) -> LastBatch:
    """Record how the night ended: for the next run in the context, for people as an artifact.

    Returns what counts: if another run has closed the night meanwhile, that.
    """
    return await record(night, outcome)


@step
async def scheduled_done(night: Night, outcome: LastBatch) -> None:
    """After the last night end the binding: schedule paused, grant forgotten and revoked."""
    if not await night.is_last():
        return
    await deployment.pause(night.binding)
    # A failed last night keeps its grant, so that somebody can still run it again.
    if outcome.status != "FAILED":
        await grants.revoke(await grants.delete(night.binding), await systems.oauth_server())


async def end_night(night: Night, outcome: LastBatch) -> LastBatch:
    """Record the outcome and what follows from it; what happened outside stays what it is.

    Raises PREFECT_TROUBLE: the night is opened again then, and recorded once Prefect is back.
    """
    try:
        outcome = await record_batch_outcome(night, outcome)
        if night.grant_lost:
            await _stop_schedule(night, night.grant_lost)
        await scheduled_done(night, outcome)
    except PREFECT_TROUBLE:
        await _note_closed(night, outcome)
        raise
    except Exception as error:  # noqa: BLE001  (the night is over, and how it ended is known)
        unexpected(error)
        await _note_closed(night, outcome)
    return outcome


async def end_unopened(error: Exception, reason: str) -> LastBatch:
    """Record the outcome of a night that could not be opened; raises the error if it is of none."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    outcome = await record_instead(run, "FAILED", reason) if run else None
    if outcome is None:
        raise error
    return outcome


def unexpected(error: Exception) -> str:
    """The error's sentence for people, who find all of it in the log: its text may hold secrets."""
    get_run_logger().error("The night ended unexpectedly.", exc_info=error)
    return f"An unexpected {type(error).__name__} ended the night: see the run's log."


def final_state(outcome: LastBatch) -> State[Any]:
    """The state of the night's run, which says the same as what is recorded."""
    data = outcome.model_dump(mode="json", by_alias=True, exclude_none=True)
    if outcome.status == "FAILED":
        return Failed(message=outcome.reason, data=data)
    if outcome.status == "SKIPPED":
        return Completed(name="Skipped", message=outcome.reason, data=data)
    at = f" at {outcome.closed_at:%Y-%m-%d %H:%M:%S} UTC" if outcome.closed_at else ""
    return Completed(message=f"Closed{at}", data=data)


async def _note_closed(night: Night, outcome: LastBatch) -> None:
    """Note, if that at least is possible, that the batch is closed: nothing need be sent again."""
    if outcome.ok and not night.context.outcome_of(night.occurrence):
        with suppress(Exception):
            async with asyncio.timeout(KEPT_WITHIN):
                await note(night, closed_at=outcome.closed_at)


async def _stop_schedule(night: Night, reason: str) -> None:
    """Nothing can be closed until the binding is configured again: say so, and stop trying."""
    await deployment.pause(night.binding)
    emit_event(
        event="daily-orders-batch-close.grant.lost",
        resource={
            "prefect.resource.id": f"daily-orders-batch-close.binding.{night.binding.slug}",
            "prefect.resource.name": str(night.binding),
        },
        payload={"reason": reason},
    )
