"""What an outside system says, made fit to be shown: one short line without our secrets."""

from collections.abc import Collection, Iterator
from functools import cached_property
from urllib.parse import quote_plus

HIDDEN = "[hidden]"

SHORTEST_PIECE = 8
"""Characters of a secret, one after another, that may not be shown."""

_READ_FOR_EACH = 20
"""Characters that are looked at for each one that may be shown."""


class Hiding:
    """Makes texts fit to be shown without these secrets, which are spelled out once for them all.

    Pieces of a secret are hidden as well: servers like to quote the first half of a token, or its
    two ends.
    """

    def __init__(self, secrets: Collection[str]) -> None:
        self._longest_first = sorted(_spellings(secrets), key=len, reverse=True)
        self._pieces = Pieces(self._longest_first, SHORTEST_PIECE)

    def quotable(self, text: object, limit: int = 200) -> str:
        """At most `limit` printable ASCII characters of `text`, with every secret hidden.

        Anything that is not a string yields "".
        """
        if not isinstance(text, str):
            return ""
        quoted = _printable(text[: limit * _READ_FOR_EACH])
        for secret in self._longest_first:
            quoted = quoted.replace(secret, HIDDEN)
        return " ".join(self._without_pieces(quoted).split())[:limit]

    def _without_pieces(self, text: str) -> str:
        shown, last = [], 0
        for start, end in self._pieces.within(text):
            shown += [text[last:start], HIDDEN]
            last = end
        return "".join([*shown, text[last:]])


class Pieces:
    """Finds where texts have at least `size` consecutive characters of a secret."""

    def __init__(self, secrets: Collection[str], size: int) -> None:
        self._secrets, self._size = secrets, size

    @cached_property
    def _runs(self) -> set[str]:
        """Every piece of that size. For a token of 4 kB it takes milliseconds, so it is made once.

        Most texts are shorter than a piece, so for many requests it is never made.
        """
        size = self._size
        return {it[at : at + size] for it in self._secrets for at in range(len(it) - size + 1)}

    def within(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the text has pieces of a secret: start and end of each."""
        size, start, end = self._size, 0, 0
        for at in range(len(text) - size + 1):
            if text[at : at + size] not in self._runs:
                continue
            if at > end:
                if end:
                    yield start, end
                start = at
            end = at + size
        if end:
            yield start, end


def quotable(text: object, secrets: Collection[str] = (), limit: int = 200) -> str:
    """At most `limit` printable ASCII characters of `text`, with every secret hidden: see Hiding.

    For many texts and the same secrets, make one Hiding.
    """
    return Hiding(secrets).quotable(text, limit)


def _spellings(secrets: Collection[str]) -> set[str]:
    """The secrets as a quoted text or a quoted form body would show them."""
    plain = {_printable(secret) for secret in secrets}
    encoded = {quote_plus(secret, errors="replace") for secret in secrets}
    return (plain | encoded) - {""}


def _printable(text: str) -> str:
    return "".join(character if " " <= character <= "~" else " " for character in text)
