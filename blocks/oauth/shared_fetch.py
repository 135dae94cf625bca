"""What several want of an issuer at the same time is fetched once for all of them."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from blocks import ownership
from blocks.oauth.errors import OAuthError, ServerUnavailableError

FAILURE_KEPT_FOR = 5.0
"""Seconds for which a failure is told again: an issuer that suffers is not asked for each."""

MOST_FAILURES = 1_000
"""So many are remembered: names may be anybody's, as many as they like."""

Fetched = TypeVar("Fetched")


@dataclass
class _OfALoop(Generic[Fetched]):
    """What an event loop knows: the fetches under way, and those that failed and when."""

    under_way: dict[str, asyncio.Task[Fetched]] = field(default_factory=dict)
    failed: OrderedDict[str, tuple[OAuthError, float]] = field(default_factory=OrderedDict)


class SharedFetches(Generic[Fetched]):
    """The fetches under way, at most one for each name in each event loop."""

    def __init__(self) -> None:
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _OfALoop[Fetched]]
        self._loops = WeakKeyDictionary()

    def forget(self) -> None:
        """Forget every failure, and whom anybody waits for."""
        self._loops.clear()

    async def get(
        self,
        name: str,
        fetch: Callable[[], Coroutine[Any, Any, Fetched]],
        *,
        within: float | None = None,
    ) -> Fetched:
        """What the fetch of this name yields; `fetch` begins one where none is under way.

        The fetch goes on where whoever began it goes away: others wait for it.

        Raises:
            TimeoutError: It takes longer than `within` seconds; it goes on all the same.
            ServerUnavailableError: It was ended before it was done.
            OAuthError: As `fetch` raises it, to all who wait for it and who come soon after.
            Exception: Whatever else `fetch` raises, to all who wait for it.
        """
        loop = asyncio.get_running_loop()
        known = self._loops.setdefault(loop, _OfALoop())
        failure, at = known.failed.get(name, (None, 0.0))
        if failure is not None and loop.time() - at < FAILURE_KEPT_FOR:
            raise failure.with_traceback(None)
        task = known.under_way.get(name)
        if task is None:
            # No run's own: others wait for it, and go on where that one is cancelled.
            with ownership.working(ownership.of_process()):
                task = known.under_way[name] = asyncio.create_task(fetch())
            task.add_done_callback(partial(_done, known, name, loop))
        await asyncio.wait([task], timeout=within)
        if not task.done():
            raise TimeoutError
        if task.cancelled():
            raise ServerUnavailableError(
                "What was asked of the OAuth server's issuer was given up half-way: run it again."
            )
        return task.result()


def _done(
    known: _OfALoop[Fetched],
    name: str,
    loop: asyncio.AbstractEventLoop,
    task: asyncio.Task[Fetched],
) -> None:
    known.under_way.pop(name, None)
    if task.cancelled():
        return
    failure = task.exception()  # read also because asyncio complains where nobody waited for it
    if isinstance(failure, OAuthError):
        known.failed[name] = (failure.with_traceback(None), loop.time())
        known.failed.move_to_end(name)
        if len(known.failed) > MOST_FAILURES:
            known.failed.popitem(last=False)
