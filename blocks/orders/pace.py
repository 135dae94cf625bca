"""How long an operation waits from one attempt to the next."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from blocks import clock

MAX_RETRY_AFTER = 120.0
"""Seconds. A server that asks for more is asked sooner: one header must not cost a night."""

MAX_BACKOFF = 30.0
"""Seconds between two attempts where the server asks for nothing."""


@dataclass(frozen=True)
class Pace:
    """When the next attempt happens; its clock, sleep and chance are replaceable in tests."""

    now: Callable[[], datetime] = clock.now
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random

    def delay(self, attempt: int, asked: float | None) -> float:
        """Seconds after this attempt (1, 2, ...): 2, 4, 8 ... and never sooner than asked.

        Up to a quarter is added by chance, so that all tenants of 23:00 do not return in step.
        """
        backoff = min(MAX_BACKOFF, 2.0**attempt)
        return max(backoff, min(asked or 0.0, MAX_RETRY_AFTER)) * (1 + self.chance() / 4)
