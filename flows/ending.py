"""What belongs to the end of a night besides its steps, above all where something goes wrong."""

from prefect import get_run_logger
from prefect.context import FlowRunContext
from prefect.events import emit_event

from blocks import deployment
from blocks import grant as grants
from blocks.lock import only_holder
from blocks.outcome import LastBatch
from flows.night import Night
from flows.unopened import record_instead


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


def not_recorded(error: Exception) -> None:
    """Log why the end of a night could not be recorded, or what belongs to it not be done."""
    get_run_logger().error("The end of the night is not recorded as it should be.", exc_info=error)


async def stop_schedule(night: Night, reason: str) -> None:
    """Nothing can be closed until the binding is configured again: say so, and stop trying.

    Nothing is done if it was configured again meanwhile, so that its grant is another.
    """
    async with only_holder(f"configure-{night.binding.slug}"):
        grant = await grants.find(night.binding)
        if grant is None or not grant.lost_because:
            return
        await deployment.pause(night.binding)
    emit_event(
        event="daily-orders-batch-close.grant.lost",
        resource={
            "prefect.resource.id": f"daily-orders-batch-close.binding.{night.binding.slug}",
            "prefect.resource.name": str(night.binding),
        },
        payload={"reason": reason},
    )
