"""A memory of bounded size and age."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Memory(Generic[Key, Value]):
    """Remembers the latest `size` values, with the seconds since each was put in."""

    def __init__(self, size: int, now: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._now = now
        self._values: OrderedDict[Key, tuple[Value, float]] = OrderedDict()

    def put(self, key: Key, value: Value) -> None:
        """Remember the value; the one that was not put in for the longest time is forgotten."""
        self._values[key] = (value, self._now())
        self._values.move_to_end(key)
        if len(self._values) > self._size:
            self._values.popitem(last=False)

    def get(self, key: Key, *, within: float) -> Value | None:
        """The value if it was put in at most `within` seconds ago."""
        value, at = self._values.get(key, (None, 0.0))
        return value if value is not None and self._now() - at <= within else None
