"""Whether a failed call of the OAuth server is tried again, and after what pause.

Two kinds of failure, two rhythms. A server that did not act may be asked again at leisure. One that
may have acted is asked again *at once*, with the same token: servers that rotate refresh tokens
forgive a repeated one for some seconds, if at all. A later one is theft to them (RFC 9700 4.14.2).
"""

from collections.abc import Callable
from datetime import datetime
from secrets import SystemRandom

from blocks.oauth.errors import ReplyLostError, TransientOAuthError

MOST_DECLINED = 6
"""Attempts of one call that may find the server unreachable or busy, the first included."""

PROMPT_PAUSES = (0.1, 1.0)
"""Seconds before each retry of a call whose reply was lost; there are no further ones."""

PROMPT_WINDOW = 5.0
"""Seconds after the first lost reply in which any retry must begin."""

JITTER = 0.1
"""The part of a pause by which it is stretched at random, so that tenants do not wake as one."""

_random = SystemRandom()


class Retries:
    """The failures of one call so far, and what follows from them."""

    def __init__(self, now: Callable[[], datetime], patience: float) -> None:
        """Start counting; no attempt begins later than `patience` seconds from here."""
        self._now = now
        self._begun = now()
        self._patience = patience
        self._declined = 0
        self._lost: list[ReplyLostError] = []
        self._doubtful_since: datetime | None = None

    def pause_after(self, failure: TransientOAuthError) -> float | None:
        """Seconds to wait before the next attempt, or None when there must not be another."""
        if isinstance(failure, ReplyLostError):
            self._lost.append(failure)
            self._doubtful_since = self._doubtful_since or self._now()
        else:
            self._declined += 1
        spent = self._declined >= MOST_DECLINED or len(self._lost) > len(PROMPT_PAUSES)
        left = self._seconds_left()
        if spent or left <= 0:
            return None
        return min(self._wanted(failure) * _random.uniform(1, 1 + JITTER), left)

    def verdict(self, failure: Exception) -> Exception:
        """What to raise after the last `failure`: one lost reply leaves the whole call in doubt."""
        return self._lost[-1] if self._lost else failure

    def _wanted(self, failure: TransientOAuthError) -> float:
        if isinstance(failure, ReplyLostError):
            return PROMPT_PAUSES[len(self._lost) - 1]
        if failure.retry_after is not None:
            return max(failure.retry_after, PROMPT_PAUSES[0])
        return float(2 ** (self._declined - 1))

    def _seconds_left(self) -> float:
        now = self._now()
        left = self._patience - (now - self._begun).total_seconds()
        if self._doubtful_since is None:
            return left
        return min(left, PROMPT_WINDOW - (now - self._doubtful_since).total_seconds())
