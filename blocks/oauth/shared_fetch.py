"""What several want of an issuer at the same time is fetched once for all of them."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from blocks.oauth.errors import ServerUnavailableError

Fetched = TypeVar("Fetched")


class SharedFetches(Generic[Fetched]):
    """The fetches under way, at most one for each name in each event loop."""

    def __init__(self) -> None:
        self._under_way: WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[str, asyncio.Task[Fetched]]
        ] = WeakKeyDictionary()

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
            Exception: Whatever `fetch` raises, to all who wait for it.
        """
        tasks = self._under_way.setdefault(asyncio.get_running_loop(), {})
        task = tasks.get(name)
        if task is None:
            task = tasks[name] = asyncio.create_task(fetch())
            task.add_done_callback(partial(_forget, tasks, name))
        await asyncio.wait([task], timeout=within)
        if not task.done():
            raise TimeoutError
        if task.cancelled():
            raise ServerUnavailableError(
                "What was asked of the OAuth server's issuer was given up half-way: run it again."
            )
        return task.result()


def _forget(
    tasks: dict[str, asyncio.Task[Fetched]], name: str, task: asyncio.Task[Fetched]
) -> None:
    tasks.pop(name, None)
    if not task.cancelled():
        task.exception()  # asyncio complains of a failure that nobody waited for
