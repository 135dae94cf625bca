"""Long polling: `Prefer: wait=30` (RFC 7240 4.3) answers when the journey has ended."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from deployments.http_api.board import FRESH, Board
from deployments.journey import Journey

LONGEST = 60
"""Seconds. Proxies between us and the client rarely wait longer for an answer."""

PER_CALLER = 20
"""How many requests of one caller may wait at once: who acts for the same tenants is one."""

IN_ALL = 200
"""How many requests may wait at once. All other requests need connections, too."""

_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)


def seconds_to_wait(prefer: str | None) -> int | None:
    """How long the client would wait, LONGEST at most; None if it says nothing that we know."""
    found = _WAIT.search(prefer or "")
    return min(int(found[1]), LONGEST) if found else None


class Places:
    """Where requests wait. Whoever finds none free is answered at once (RFC 7240 2)."""

    def __init__(self) -> None:
        self._taken: Counter[Hashable] = Counter()

    @contextmanager
    def taken_by(self, caller: Hashable) -> Iterator[bool]:
        """Whether the caller has a place, which is free again afterwards."""
        if self._taken[caller] >= PER_CALLER or self._taken.total() >= IN_ALL:
            yield False
            return
        self._taken[caller] += 1
        try:
            yield True
        finally:
            self._taken[caller] -= 1
            self._taken += Counter()  # forgets who has none


PLACES = Places()
"""Of the process, as its connections are."""


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
