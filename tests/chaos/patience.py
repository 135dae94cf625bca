"""Prefect's API is asked again and again: it may be away, that is what this is about."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import httpx

from blocks.caller_token import CallerTokenError

SETTLED_WITHIN = 150.0
"""Seconds after the last blow: two minutes, and half of one for a busy machine."""

Answer = TypeVar("Answer")


async def patiently(ask: Callable[[], Awaitable[Answer]], within: float = SETTLED_WITHIN) -> Answer:
    """Ask until the Prefect server answers, or raise its last trouble after so many seconds."""
    deadline = time.monotonic() + within
    while True:
        try:
            return await ask()
        except (httpx.HTTPError, CallerTokenError):
            if time.monotonic() > deadline:
                raise
        await anyio.sleep(0.5)
