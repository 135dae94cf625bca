"""What several runs ask of Prefect's API within a moment is asked once for all of them.

Runs that fall due together do the same together, and one request for each costs Prefect several
times as much as one for all. Only for runs that a worker executes side by side: nobody else waits.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import islice
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import httpx

from blocks.places import is_beside_others

GATHERED_FOR = 0.2
"""Seconds for which whoever asks first waits for company."""

_logger = logging.getLogger(__name__)

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

_Waiting = dict[Asked, asyncio.Future[Answer | None]]


class Together(Generic[Asked, Answer]):
    """Asks for several at once.

    Args:
        ask: Asks for these; what is missing from its answer, or all of them if it fails, is asked
            for by each who wants it alone.
        most: For how many it can ask.
        gathered_for: Seconds for which whoever asks first waits for company.
    """

    def __init__(
        self,
        ask: Callable[[list[Asked]], Awaitable[Mapping[Asked, Answer]]],
        most: int,
        gathered_for: float | None = None,
    ) -> None:
        self._ask, self._most, self._gathered_for = ask, most, gathered_for
        self._waiting: WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting[Asked, Answer]]
        self._waiting = WeakKeyDictionary()
        self._asking: set[asyncio.Task[None]] = set()

    async def get(self, wanted: Asked, *, has_place: bool | None = None) -> Answer | None:
        """The answer for this one; None if it has to be asked for alone.

        `has_place` tells whether others ask beside it, where that is known better.
        """
        if not (is_beside_others() if has_place is None else has_place):
            return None
        waiting = self._waiting.setdefault(asyncio.get_running_loop(), {})
        if wanted in waiting:
            return None
        if not waiting:
            asking = asyncio.create_task(self._ask_for(waiting))
            self._asking.add(asking)
            asking.add_done_callback(partial(self._done, waiting))
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        waiting[wanted] = answer
        return await answer

    async def _ask_for(self, waiting: _Waiting[Asked, Answer]) -> None:
        gathered_for = self._gathered_for
        await asyncio.sleep(GATHERED_FOR if gathered_for is None else gathered_for)
        while waiting:
            some = {wanted: waiting.pop(wanted) for wanted in [*islice(waiting, self._most)]}
            answers: Mapping[Asked, Answer] = {}
            try:
                if len(some) > 1:
                    answers = await self._ask_or_none(list(some))
            finally:
                _answer(some, answers)

    async def _ask_or_none(self, some: list[Asked]) -> Mapping[Asked, Answer]:
        try:
            return dict(await self._ask(some))
        except (httpx.HTTPError, ValueError):
            pass  # who asks alone learns more
        except Exception as error:  # noqa: BLE001 - whatever it is, all of them wait for an answer
            # Only its kind: what it says may quote what was read.
            _logger.warning(
                "Reading for several failed, each reads alone: %s", type(error).__name__
            )
        return {}

    def _done(self, waiting: _Waiting[Asked, Answer], asking: asyncio.Task[None]) -> None:
        """Send off whoever still waits for an asking that was cancelled, even before it began."""
        self._asking.discard(asking)
        if asking.cancelled() or asking.exception():
            _answer(waiting, {})
            waiting.clear()


def _answer(waiting: _Waiting[Asked, Answer], answers: Mapping[Asked, Answer]) -> None:
    for wanted, answer in waiting.items():
        if not answer.done():
            answer.set_result(answers.get(wanted))
