"""What workers should have deleted in the end: callers' tokens, and grants that were replaced."""

import asyncio
from datetime import timedelta

from prefect.client.orchestration import get_client

from blocks import caller_token, clock, secret_blocks
from blocks import grant as grants
from blocks.binding import Binding
from deployments.sweep import GRANTS_EVERY
from deployments.unfinished_journeys import read_unfinished, tokens_named
from tests.chaos.patience import patiently
from tests.chaos.systems import SWEEP_SECONDS

SLACK = timedelta(minutes=1)
"""For looks that take their time on a busy machine."""


async def left_over() -> list[str]:
    """What is left though a worker has had the time to delete it, as soon as that can be told."""
    looks = timedelta(seconds=SWEEP_SECONDS * (GRANTS_EVERY + 1))
    until = clock.now() + max(caller_token.TAKEN_WITHIN, looks) + SLACK
    while left := await patiently(_look):
        if clock.now() > until:
            return left
        await asyncio.sleep(5)
    return []


async def _look() -> list[str]:
    return [*await _unneeded_tokens(), *await _with_replaced()]


async def _unneeded_tokens() -> list[str]:
    """Of journeys that have ended, or never began."""
    found = await secret_blocks.find_all(caller_token.PREFIX)
    async with get_client() as client:
        needed = tokens_named(await read_unfinished(client))
    return [f"{it.name} holds a caller's token" for it in found if it.name not in needed]


async def _with_replaced() -> list[str]:
    """Grants that remember others which are not revoked yet, or are over themselves."""
    left = []
    for it in await secret_blocks.find_all(grants.PREFIX):
        binding = Binding.stored_as(it.name.removeprefix(grants.PREFIX))
        grant = (await grants.find_several([binding])).get(binding.slug)
        if grant and (grant.to_revoke or grant.over_since):
            left.append(f"{it.name} remembers a grant that is not revoked")
    return left
