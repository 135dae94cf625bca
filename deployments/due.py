"""When a worker has to look for due runs: at the moments of those it has heard of."""

from collections.abc import Iterable
from datetime import datetime

import anyio

from blocks import clock


class DueMoments:
    """Moments at which some run falls due. Which runs those are, Prefect is asked then."""

    def __init__(self) -> None:
        self._moments: list[datetime] = []
        self._earlier = anyio.Event()

    def add(self, moments: Iterable[datetime]) -> None:
        """Remember moments, once each."""
        before = min(self._moments, default=None)
        self._moments = sorted({*self._moments, *moments})
        if self._moments and self._moments[0] != before:
            self._earlier.set()

    async def wait(self, *, at_most: float) -> None:
        """Return when the next moment has come, or after so many seconds."""
        with anyio.move_on_after(at_most):
            while (left := self._seconds_left()) > 0:
                self._earlier = anyio.Event()
                with anyio.move_on_after(left):
                    await self._earlier.wait()
        now = clock.now()
        self._moments = [moment for moment in self._moments if moment > now]

    def _seconds_left(self) -> float:
        if not self._moments:
            return float("inf")
        return (self._moments[0] - clock.now()).total_seconds()
