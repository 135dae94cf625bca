"""A caller's own access token has no place in what they ask for: it is found by its value.

What is asked for is stored and shown in clear, under whatever name the token came.
"""

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from pydantic import SecretStr

from blocks.quoting import pieces
from flows.refusals import FieldError, InvalidRequestError

LONGEST_PIECE = 16
"""So many characters of a token in a row are no chance; fewer are left for a token of under 32."""

SHORTEST_PIECE = 8
"""A token that is shorter, as in a trial, only counts where it stands alone."""

ENCODED_TIMES = 4
"""How often a text may have been percent-encoded for the token in it to be found."""

_URL_SAFE = str.maketrans("+/", "-_")
_BREAKS = re.compile(r"\\[nrt]?|\s")  # what JSON in a text, or a line's end, puts between


def refuse_own_token(request: Mapping[str, Any], token: SecretStr | str) -> None:
    """Raise InvalidRequestError if a name or value in the request holds the token or a piece of it.

    The error says where, and quotes nothing.
    """
    plain = token.get_secret_value() if isinstance(token, SecretStr) else token
    errors = []
    for name, value in request.items() if isinstance(request, Mapping) else ():
        if holds_token(str(name), plain):
            errors.append(FieldError("request", "has your access token as a name: remove it"))
        elif any(holds_token(text, plain) for text in _texts(value)):
            reason = (
                "holds your access token, or a piece of it, which is shown to nobody: remove it"
            )
            errors.append(FieldError(str(name)[:60], reason))
    if errors:
        raise InvalidRequestError(errors)


def holds_token(text: str, token: str) -> bool:
    """Whether the text has the token or a piece of it in it, also percent-encoded or in base64.

    What one JWT has in common with every other, its header, is no piece of it.
    """
    token = _BREAKS.sub("", token)
    if len(token) < SHORTEST_PIECE:
        return bool(token) and token.translate(_URL_SAFE) in _readings(text)
    size = max(SHORTEST_PIECE, min(LONGEST_PIECE, len(token) // 2))
    spelled = _spellings(token)
    return any(next(pieces(reading, spelled, size), None) for reading in _readings(text))


def _spellings(token: str) -> set[str]:
    """The token as it may stand in a text: plain, or somewhere in something in base64."""
    header, _, signed = token.partition(".")
    secret = signed if header.startswith("ey") and signed.count(".") == 1 else token
    data = secret.encode(errors="replace")
    # As base64 spells three bytes at a time, it depends on how many come before.
    encoded = (urlsafe_b64encode(b"\0" * before + data).decode().rstrip("=") for before in range(3))
    return {secret.translate(_URL_SAFE), *(text[4:-2] for text in encoded)}


def _readings(text: str) -> Iterator[str]:
    """The text without white space, as it stands and with its percent-encodings taken off."""
    for _ in range(ENCODED_TIMES + 1):
        yield _BREAKS.sub("", text).translate(_URL_SAFE)
        decoded = unquote(text)
        if decoded == text:
            return
        text = decoded


def _texts(value: object) -> Iterator[str]:
    """Every text, number and name in the value, however deep, as it would be shown."""
    waiting, seen = [value], set[int]()
    while waiting:
        current = waiting.pop()
        if not isinstance(current, Mapping | list | tuple | set):
            with suppress(ValueError):  # of an integer that is longer than any token
                yield str(current)
        elif id(current) not in seen:
            seen.add(id(current))
            waiting += [*current, *current.values()] if isinstance(current, Mapping) else current
