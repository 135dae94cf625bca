"""What an outside system says, made fit to be shown: one short line without our secrets."""

from collections.abc import Collection, Iterator
from urllib.parse import quote_plus

HIDDEN = "[hidden]"

SHORTEST_PIECE = 8
"""Characters of a secret, one after another, that may not be shown."""

_READ_FOR_EACH = 20
"""Characters that are looked at for each one that may be shown."""


def quotable(text: object, secrets: Collection[str] = (), limit: int = 200) -> str:
    """At most `limit` printable ASCII characters of `text`, with every secret hidden.

    Pieces of a secret are hidden as well: servers like to quote the first half of a token, or its
    two ends. Anything that is not a string yields "".
    """
    if not isinstance(text, str):
        return ""
    hidden = _spellings(secrets)
    quoted = _printable(text[: limit * _READ_FOR_EACH])
    for secret in sorted(hidden, key=len, reverse=True):
        quoted = quoted.replace(secret, HIDDEN)
    return " ".join(_without_pieces(quoted, hidden).split())[:limit]


def pieces(text: str, secrets: Collection[str], size: int) -> Iterator[tuple[int, int]]:
    """Where the text has at least `size` consecutive characters of a secret: start and end."""
    runs = {secret[at : at + size] for secret in secrets for at in range(len(secret) - size + 1)}
    start = end = 0
    for at in range(len(text) - size + 1) if runs else ():
        if text[at : at + size] not in runs:
            continue
        if at > end:
            if end:
                yield start, end
            start = at
        end = at + size
    if end:
        yield start, end


def _without_pieces(text: str, secrets: Collection[str]) -> str:
    shown, last = [], 0
    for start, end in pieces(text, secrets, SHORTEST_PIECE):
        shown += [text[last:start], HIDDEN]
        last = end
    return "".join([*shown, text[last:]])


def _spellings(secrets: Collection[str]) -> set[str]:
    """The secrets as a quoted text or a quoted form body would show them."""
    plain = {_printable(secret) for secret in secrets}
    encoded = {quote_plus(secret, errors="replace") for secret in secrets}
    return (plain | encoded) - {""}


def _printable(text: str) -> str:
    return "".join(character if " " <= character <= "~" else " " for character in text)
