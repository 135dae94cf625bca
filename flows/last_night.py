"""The end of a binding: after its last night nothing of it runs any more."""

from datetime import datetime

from blocks import context as contexts
from blocks import deployment, systems
from blocks import grant as grants
from blocks.binding import Binding
from blocks.lock import only_holder
from blocks.outcome import LastBatch
from flows.keeping import only_writer_of
from flows.requests import NotConfiguredError, configured_now


async def end_if_last(
    binding: Binding, outcome: LastBatch, *, patience: float | None = None
) -> None:
    """End the binding if this was its last night: schedule paused, grant forgotten and revoked.

    Not where it was configured anew meanwhile, and not while it is being configured. A last night
    that failed keeps the grant, so that somebody can still run it again. Raises LockedError while
    it is being configured for longer than `patience`, in seconds.
    """
    async with only_holder(f"configure-{binding.slug}", patience=patience):
        if not await _is_last(binding, outcome.occurrence):
            return
        await deployment.pause(binding)
        if outcome.status != "FAILED":
            await _note_whose_schedule_is_over(binding)
            await grants.forget(binding, await systems.oauth_server())


async def _is_last(binding: Binding, occurrence: datetime) -> bool:
    try:
        latest = await configured_now(binding)
    except NotConfiguredError:
        return True
    return occurrence >= latest.recurrence.last


async def _note_whose_schedule_is_over(binding: Binding) -> None:
    """For a journey that stood still before its end, and would think that nothing was done yet."""
    grant = await grants.find(binding)
    if grant is None or grant.journey_id is None:
        return
    async with only_writer_of(binding) as context:
        over = context.model_copy(update={"journey_over": grant.journey_id})
        await contexts.store(binding, over)
