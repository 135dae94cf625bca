"""What an outside system says, made fit to be shown: one short line without our secrets."""

import re
from collections.abc import Collection
from urllib.parse import quote_plus

HIDDEN = "[hidden]"

_PIECE_OF_A_TOKEN = re.compile(r"[\w.~+/=%-]{8,}", re.ASCII)


def quotable(text: object, secrets: Collection[str] = (), limit: int = 200) -> str:
    """At most `limit` printable ASCII characters of `text`, with every secret hidden.

    Long pieces of a secret are hidden as well: servers like to quote the first half of a token.
    Anything that is not a string yields "".
    """
    if not isinstance(text, str):
        return ""
    hidden = _spellings(secrets)
    quoted = _printable(text)
    for secret in sorted(hidden, key=len, reverse=True):
        quoted = quoted.replace(secret, HIDDEN)

    def hide_piece(found: re.Match[str]) -> str:
        piece = found[0].strip(".")
        return HIDDEN if piece and any(piece in secret for secret in hidden) else found[0]

    return " ".join(_PIECE_OF_A_TOKEN.sub(hide_piece, quoted).split())[:limit]


def _spellings(secrets: Collection[str]) -> set[str]:
    """The secrets as a quoted text or a quoted form body would show them."""
    plain = {_printable(secret) for secret in secrets}
    encoded = {quote_plus(secret, errors="replace") for secret in secrets}
    return (plain | encoded) - {""}


def _printable(text: str) -> str:
    return "".join(character if " " <= character <= "~" else " " for character in text)
