"""The one place that looks at the clock, so that tests can set it.

It shows the Prefect server's time: machines whose clocks disagree must agree on when a wait is
over, or a night would be closed early on one of them.
"""

import time
from collections import deque
from datetime import UTC, datetime, timedelta

TOLERANCE = timedelta(seconds=2)
"""So much is not worth correcting: it may as well be the time that an answer took."""

_BOOT: int | None = getattr(time, "CLOCK_BOOTTIME", None)

_ahead: deque[timedelta] = deque(maxlen=100)


def now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC) - _correction()


def compare(server_moment: datetime) -> None:
    """Learn how far this machine's clock is ahead: the server has just said that it is so late."""
    _ahead.append(datetime.now(UTC) - server_moment)


def elapsed() -> float:
    """Seconds on a clock that no correction steps; only differences mean anything.

    For measuring silences and leases. Where the system can tell (Linux), the time that a machine
    was suspended counts.
    """
    return time.monotonic() if _BOOT is None else time.clock_gettime(_BOOT)


def _correction() -> timedelta:
    # An answer that took its time makes our clock look further ahead than it is; so the smallest.
    ahead = min(_ahead, default=timedelta(0))
    return ahead if abs(ahead) > TOLERANCE else timedelta(0)
