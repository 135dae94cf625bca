"""What is stored of a binding's nights, changed by the run of one of them: progress and outcome.

The context is for the next run, the history for people. Both are read, changed and written again:
so whoever does it takes the binding's lock first and reads what is stored then. Any run may meet
another at any time: one started by hand, a worker that records a stopped run, the end of a binding.
That costs each write a request for the lock, one for its release and a read of the context, which
runs that a worker executes side by side share.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial

from blocks import context as contexts
from blocks import history
from blocks.binding import Binding
from blocks.context import Context, Progress
from blocks.history import History
from blocks.lock import only_holder
from blocks.outcome import LastBatch, merged
from flows.missed import missed_nights
from flows.night import MAYBE_SENT, Night


async def note(night: Night, **done: object) -> Progress:
    """Store the night's progress, before anything is built on it; returns what it was before."""
    async with only_writer_of(night.binding) as context:
        before = context.progress_of(night.occurrence)
        noted, dropped = context.noted(before.model_copy(update=done))
        await contexts.store(night.binding, noted)
        night.context = noted
        await _keep_doubts(night, dropped)
    return before


async def record(night: Night, outcome: LastBatch) -> LastBatch:
    """Record how the night ended, and what became of nights that no run recorded.

    Another run of the night may have been about to close it meanwhile: what is stored tells.
    Returns what counts as the night's outcome now: the one given, or one that was known already and
    outranks it.
    """
    async with only_writer_of(night.binding) as context:
        night.context = context
        missed = partial(missed_nights, night)
        outcome = night.doubted(outcome)
        outcome, night.context = await keep(night.binding, context, outcome, missed=missed)
    return outcome


async def recorded(binding: Binding, context: Context, occurrence: datetime) -> LastBatch | None:
    """How this night ended, as far as that is recorded; `context` is what is stored."""
    last = context.last_batch
    if last is None or last.occurrence <= occurrence:
        return context.outcome_of(occurrence)
    return (await history.read(binding)).nights.get(occurrence)


async def keep(
    binding: Binding,
    context: Context,
    outcome: LastBatch,
    *,
    missed: Callable[[History], Awaitable[list[LastBatch]]] | None = None,
) -> tuple[LastBatch, Context]:
    """Store an outcome in the history and in the context.

    Args:
        binding: Whose night it is.
        context: As it is stored.
        outcome: How the night ended, as far as its run knows.
        missed: Tells from the history what else there is to record.

    Returns what counts as the night's outcome, and the context as it is stored then.
    """
    found: list[LastBatch] = []
    is_told = False
    try:
        known = await history.read(binding)
        found = await missed(known) if missed else []
        nights = merged([*_told(context, known), *found, outcome])
        outcome = nights[outcome.occurrence]
        await history.write(binding, known, nights.values())
        is_told = True
    finally:
        # Whatever becomes of the history: by this the next run knows that nothing need be sent.
        changed = context
        for one in (*found, outcome):
            changed = changed.ended(one, is_told=is_told)
        if changed != context:
            await contexts.store(binding, changed)
    return outcome, changed


@asynccontextmanager
async def only_writer_of(
    binding: Binding, *, patience: float | None = None
) -> AsyncIterator[Context]:
    """Be the only one that changes what is stored of the binding; yields its context.

    Not to be taken where the grant is refreshed: that takes the same lock.
    """
    async with only_holder(binding.lock, patience=patience):
        yield await contexts.load(binding)


async def _keep_doubts(night: Night, dropped: Sequence[Progress]) -> None:
    """Where the progress of a night is kept no longer, say that it may have been closed."""
    outcomes = [
        night.outcome_of(progress, "FAILED", reason=MAYBE_SENT, inferred=True)
        for progress in dropped
        if progress.closing_at
    ]
    if outcomes:
        known = await history.read(night.binding)
        nights = merged([*_told(night.context, known), *outcomes])
        await history.write(night.binding, known, nights.values())


def _told(context: Context, known: History) -> list[LastBatch]:
    last = [context.last_batch] if context.last_batch else []
    return [*known.nights.values(), *last]
