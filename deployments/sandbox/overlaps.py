"""Which process asks for what, and whether two processes work on one thing at once."""

import re
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

_PROCESS = re.compile(r"\(process ([0-9a-f]{32})\)")


def process_of(user_agent: str | None) -> str | None:
    """The process that a User-Agent names, as in "... (process <32 hex digits>)"."""
    named = _PROCESS.search(user_agent or "")
    return named[1] if named else None


class Span:
    """One request while its client may wait for the answer."""

    def __init__(self, underway: list[str], process: str) -> None:
        self._underway: list[str] | None = underway
        self._process = process
        underway.append(process)

    def end(self) -> None:
        """The request is answered, its connection broken off, or its client gone: once counts."""
        if self._underway is not None:
            self._underway.remove(self._process)
        self._underway = None


class Overlaps:
    """Finds the pieces of work that two processes did at once.

    A piece of work is one of three:

    - a night: one binding's snapshot and close for one occurrence, as the binding's plan tells;
    - a grant: the refreshes with any of its refresh tokens;
    - a caller's token: its exchanges.

    Two processes overlap on a piece of work in one of two ways:

    - Their requests do. A request lasts from its arrival until it is answered, until the server
      breaks its connection off, or until its client hangs up, whichever comes first: a client
      that was killed waits for no answer, however slow the server is.
    - One goes on after the other has taken over: the same operation is asked for by the first, the
      second, and the first again. Only the same, because a night may well come back: the first
      takes the snapshot, the second is killed at its close, and the first closes. And not the
      refreshes of a grant, which serves many nights: there a refresh token presented twice tells.

    Requests that name no process, or that belong to no planned night, are not judged. Nor is the
    same process that asks again, nor one that takes over from one that is silent from then on,
    killed or not: a night closed by hand while its scheduled run only waits looks like that.

    One thing cannot be told from an overlap: a client that stands still with its connection open
    while the server answers slowly. The server would have to be slower than others wait.
    """

    def __init__(self) -> None:
        self._underway: dict[Hashable, list[str]] = {}
        self._turns: dict[Hashable, tuple[str, ...]] = {}
        self._overlapping: set[Hashable] = set()

    @property
    def count(self) -> int:
        """How many pieces of work two processes did at once."""
        return len(self._overlapping)

    @contextmanager
    def request(
        self, work: Hashable | None, process: str | None, *, operation: str | None
    ) -> Iterator[Span | None]:
        """Judges one request, which is under way until the block or the span ends.

        Args:
            work: The piece of work, if it is any.
            process: Who asks, if it says so.
            operation: What is asked for, unless it may come back to a process that had it before.
        """
        if work is None or process is None:
            yield None
            return
        underway = self._underway.setdefault(work, [])
        goes_on = operation is not None and self._goes_on((work, operation), process)
        if goes_on or any(other != process for other in underway):
            self._overlapping.add(work)
        span = Span(underway, process)
        try:
            yield span
        finally:
            span.end()
            if not underway and self._underway.get(work) is underway:
                del self._underway[work]

    def _goes_on(self, asked: Hashable, process: str) -> bool:
        """Whether the process asked for this before somebody else did."""
        turns = self._turns.get(asked, ())
        if turns[-1:] != (process,):
            self._turns[asked] = (*turns, process)
        return process in turns[:-1]
