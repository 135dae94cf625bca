"""The runs that a worker knows of, in the order in which they fall due."""

import heapq
import zlib
from datetime import datetime
from itertools import count
from uuid import UUID

import anyio
from prefect.client.schemas.objects import FlowRun

from blocks import clock


class DueRuns:
    """Runs to be taken when their moment comes. Nobody owns them yet: any worker may be first.

    They are remembered as compressed JSON, a tenth of what they take as objects: thousands wait.
    """

    def __init__(self) -> None:
        self._runs: dict[UUID, tuple[datetime, bytes]] = {}
        self._order: list[tuple[datetime, int, UUID]] = []
        self._numbers = count()
        self._changed = anyio.Event()

    def backlog(self) -> int:
        """How many are due and not taken yet."""
        return sum(due <= clock.now() for due, _ in self._runs.values())

    def knows(self, run: FlowRun) -> bool:
        """Whether the run is remembered for its scheduled time."""
        known = self._runs.get(run.id)
        return known is not None and known[0] == run.next_scheduled_start_time

    def add(self, run: FlowRun) -> bool:
        """Remember the run for its scheduled time; False if that was known already."""
        if self.knows(run):
            return False
        due = run.next_scheduled_start_time or clock.now()
        self._runs[run.id] = (due, _packed(run))
        heapq.heappush(self._order, (due, next(self._numbers), run.id))
        self._changed.set()
        return True

    async def next(self, most: int) -> list[FlowRun]:
        """Wait until a run is due; it and others that are, the one longest due first."""
        while not (due := self._pop(most)):
            self._changed = anyio.Event()
            with anyio.move_on_after(self._seconds_left()):
                await self._changed.wait()
        return due

    def _pop(self, most: int) -> list[FlowRun]:
        due: list[FlowRun] = []
        while self._order and len(due) < most and self._order[0][0] <= clock.now():
            moment, _, run_id = heapq.heappop(self._order)
            known = self._runs.get(run_id)
            if known and known[0] == moment:  # or somebody had it begin at another time meanwhile
                due.append(_unpacked(self._runs.pop(run_id)[1]))
        return due

    def _seconds_left(self) -> float | None:
        if not self._order:
            return None
        return max(0.0, (self._order[0][0] - clock.now()).total_seconds())


def _packed(run: FlowRun) -> bytes:
    return zlib.compress(run.model_dump_json(exclude_defaults=True).encode())


def _unpacked(run: bytes) -> FlowRun:
    return FlowRun.model_validate_json(zlib.decompress(run))
