"""What stands already where a journey goes on after its worker stood still.

A later configuration, the end of the binding, or its own nights, which are over: it must not touch
the first two, and after the third it has nothing left to do.
"""

from datetime import datetime

from blocks import context as contexts
from blocks import grant as grants
from blocks.binding import Binding


class SupersededError(Exception):
    """What was asked for later stands already; this configuration has changed nothing."""


async def refuse_superseded(binding: Binding, asked_at: datetime) -> None:
    """Raise SupersededError where the binding was configured anew, or ended, after `asked_at`.

    That is when this configuration was asked for, by Prefect's clock.
    """
    stored = await grants.find(binding)
    if stored and stored.asked_at and stored.asked_at > asked_at:
        raise SupersededError(
            f"Superseded: {binding} was configured anew after this was asked for, by journey"
            f" {stored.journey_id}. That configuration stands; this one has changed nothing."
        )
    ended_at = (await contexts.load(binding)).ended_at
    if ended_at and ended_at > asked_at:
        raise SupersededError(
            f"Superseded: {binding} was ended at {ended_at:%Y-%m-%d %H:%M:%S} UTC, after this was"
            " asked for. This configuration has changed nothing: ask for it again if it is wanted."
        )


async def is_over(binding: Binding, journey_id: str | None) -> bool:
    """Whether all nights of this very journey are over: it stood still right before its end."""
    over = (await contexts.load(binding)).journey_over
    return over is not None and over == journey_id
