"""Whether the work pool that a run came from is paused: nothing more is sent then."""

import asyncio
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from blocks import clock

BELIEVED_FOR = 1.0
"""Seconds for which all runs of a process go on with what one of them has found."""

_Place = tuple[str, str | None]


@dataclass
class _Pools:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    seen: dict[_Place, tuple[float, bool]] = field(default_factory=dict)


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pools] = WeakKeyDictionary()


async def is_paused(pool: str, queue: str | None = None) -> bool:
    """Whether somebody has paused this work pool, or this queue of it.

    Raises httpx.HTTPError where Prefect's API is away.
    """
    pools = _pools.setdefault(asyncio.get_running_loop(), _Pools())
    async with pools.lock:
        seen_at, paused = pools.seen.get((pool, queue), (float("-inf"), False))
        if clock.elapsed() - seen_at >= BELIEVED_FOR:
            asked_at = clock.elapsed()
            paused = await _ask(pool, queue)
            pools.seen[pool, queue] = (asked_at, paused)
        return paused


async def _ask(pool: str, queue: str | None) -> bool:
    async with get_client() as client:
        try:
            if (await client.read_work_pool(pool)).is_paused:
                return True
            if queue is None:
                return False
            return (await client.read_work_queue_by_name(queue, work_pool_name=pool)).is_paused
        except ObjectNotFound:  # deleted since; its runs are claimed by nobody any more
            return False
