"""The one place that looks at the clock, so that tests can set it.

It shows the Prefect server's time: machines whose clocks disagree must agree on when a wait is
over, or a night would be closed early on one of them. Between two answers of the server it goes on
by a clock that nobody corrects, so a machine whose own clock is put right is not misled.
"""

import time
from datetime import UTC, datetime

LOOK_BACK = 180.0
"""Seconds before the newest answer in which others count beside it: the server's clock is
corrected too, so an answer is not good for ever."""

CLOCK_NOISE = 0.05
"""Seconds by which two answers may differ though nobody set any clock."""

# On macOS CLOCK_MONOTONIC goes on through sleep, which time.monotonic() does not.
_UNSTEPPED: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))

_answers: list[tuple[float, float]] = []
"""When an answer came, by elapsed(), and the server's time when elapsed() was 0, as it says.

Only those that may still be the best: in the order in which they came, the server's time falls.
"""


def now() -> datetime:
    """The present moment, aware, in UTC: the server's, or the machine's until that is known.

    It is late by what the quickest of the recent answers took, and never early.
    """
    if not _answers:
        return datetime.now(UTC)
    _, server_began = _answers[0]
    return datetime.fromtimestamp(server_began + elapsed(), UTC)


def compare(server_moment: datetime, *, asked_at: float | None = None) -> None:
    """Learn the server's time: it has just said that it is so late.

    Args:
        server_moment: The server's time, at some moment between the question and now.
        asked_at: When it was asked, by `elapsed`. What was learnt earlier is forgotten if the
            server's own clock must have been set back since.
    """
    came = elapsed()
    server_began = server_moment.timestamp() - came
    if asked_at is not None and _answers and server_moment.timestamp() - asked_at < _earliest():
        _answers.clear()
    # An answer that took its time makes the server look late; so the one that has it latest counts.
    better = [
        (earlier, began)
        for earlier, began in _answers
        if began > server_began and came - earlier <= LOOK_BACK
    ]
    _answers[:] = [*better, (came, server_began)]  # at once: other threads ask for the time


def _earliest() -> float:
    """What the server's time minus elapsed() can no longer be below, if nobody set it back."""
    _, server_began = _answers[0]
    return server_began - CLOCK_NOISE


def elapsed() -> float:
    """Seconds on a clock that no correction steps; only differences mean anything.

    For measuring silences and leases. Where the system can tell (Linux, macOS), the time that a
    machine was suspended counts.
    """
    return time.monotonic() if _UNSTEPPED is None else time.clock_gettime(_UNSTEPPED)
