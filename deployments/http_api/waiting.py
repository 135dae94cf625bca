"""Long polling: `Prefer: wait=30` (RFC 7240 4.3) answers when the journey has ended."""

import asyncio
import re
import time

from deployments.http_api.board import FRESH, Board
from deployments.journey import Journey

LONGEST = 60
"""Seconds. Proxies between us and the client rarely wait longer for an answer."""

_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)


def seconds_to_wait(prefer: str | None) -> int | None:
    """How long the client would wait, LONGEST at most; None if it says nothing that we know."""
    found = _WAIT.search(prefer or "")
    return min(int(found[1]), LONGEST) if found else None


async def until_finished(
    board: Board, journey: Journey, seconds: int, stopping: asyncio.Event
) -> Journey:
    """The journey once it has ended, or as it stands after so many seconds or when we stop."""
    deadline = time.monotonic() + seconds
    while journey.status.phase == "Running" and not stopping.is_set():
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            await asyncio.wait_for(stopping.wait(), min(FRESH, left))
        except TimeoutError:
            journey = await board.journey(journey.status.journey_id)
    return journey
