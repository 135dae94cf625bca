"""Every secret that this sandbox gave out or was shown, for tests that search for leaks."""

from collections import deque


class Keepsakes:
    """The latest secrets. For tests only: a real server would never keep or tell them."""

    def __init__(self, kept: int) -> None:
        self._secrets: deque[str] = deque(maxlen=kept)

    def keep(self, secret: str) -> str:
        """Remembers the secret; returns it."""
        self._secrets.append(secret)
        return secret

    def all(self) -> list[str]:
        """Each remembered secret once, the oldest first."""
        return list(dict.fromkeys(self._secrets))
