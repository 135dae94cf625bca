"""A caller's own access token has no place in what they ask for: it is found by its value.

What is asked for is stored and shown in clear, under whatever name the token came.
"""

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from pydantic import SecretStr

from blocks.quoting import Pieces
from flows.refusals import FieldError, InvalidRequestError

LONGEST_PIECE = 16
"""So many characters of a token in a row are no chance; fewer are left for a token of under 32."""

SHORTEST_PIECE = 8
"""A token that is shorter, as in a trial, only counts where it stands alone."""

ENCODED_TIMES = 4
"""How often a text may have been percent-encoded for the token in it to be found."""

_PLAIN = (str, int, float)  # looked for first: an array may have thousands of them
_URL_SAFE = str.maketrans("+/", "-_")
_BREAKS = re.compile(r"\\[nrt]?|\s")  # what JSON in a text, or a line's end, puts between


LONGEST_SEARCHED = 8192
"""Characters of a request that are searched. One that may be kept has fewer: see flows/extras.py.

Only texts that could hold a piece of a token count. Searching takes the time of all callers.
"""


def refuse_own_token(request: Mapping[str, Any], token: SecretStr | str) -> None:
    """Raise InvalidRequestError if a name or value in the request holds the token or a piece of it.

    The error says where, and quotes nothing. A request that is too long to be searched is refused
    as well.
    """
    finder, left, errors = TokenFinder(token), LONGEST_SEARCHED, []
    for name, value in request.items() if isinstance(request, Mapping) else ():
        texts = [text for text in _texts(value) if finder.may_be_in(text)]
        left -= len(str(name)) + sum(map(len, texts))
        if left < 0:
            errors.append(FieldError("request", f"has more than {LONGEST_SEARCHED} characters"))
            break
        if finder.is_in(str(name)):
            errors.append(FieldError("request", "has your access token as a name: remove it"))
        elif any(map(finder.is_in, texts)):
            reason = (
                "holds your access token, or a piece of it, which is shown to nobody: remove it"
            )
            errors.append(FieldError(str(name)[:60], reason))
    if errors:
        raise InvalidRequestError(errors)


class TokenFinder:
    """Finds a token, or a piece of it, in texts; what is searched for is made once for them all.

    What one JWT has in common with every other, its header, is no piece of it.
    """

    def __init__(self, token: SecretStr | str) -> None:
        plain = token.get_secret_value() if isinstance(token, SecretStr) else token
        self._token = _BREAKS.sub("", plain)
        self._shortest = len(self._token)
        self._pieces: Pieces | None = None
        if self._shortest >= SHORTEST_PIECE:
            self._shortest = max(SHORTEST_PIECE, min(LONGEST_PIECE, len(self._token) // 2))
            self._pieces = Pieces(_spellings(self._token), self._shortest)

    def may_be_in(self, text: str) -> bool:
        """Whether the text is long enough; to take an encoding off makes it no longer."""
        return bool(self._token) and len(text) >= self._shortest

    def is_in(self, text: str) -> bool:
        """Whether the text has the token or a piece in it, also percent-encoded or in base64."""
        if not self.may_be_in(text):
            return False
        if self._pieces is None:
            return self._token.translate(_URL_SAFE) in _readings(text)
        return any(next(self._pieces.within(reading), None) for reading in _readings(text))


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
        if isinstance(current, _PLAIN) or not isinstance(current, Mapping | list | tuple | set):
            try:
                yield str(current)
            except ValueError:  # of an integer that is longer than any token
                continue
        elif id(current) not in seen:
            seen.add(id(current))
            waiting += [*current, *current.values()] if isinstance(current, Mapping) else current
