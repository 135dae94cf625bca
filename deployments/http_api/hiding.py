"""The caller's token stays out of answers, even where they put it into the request itself."""

from collections.abc import Iterable
from itertools import islice

from pydantic import SecretStr

from blocks.quoting import HIDDEN, Hiding
from flows.refusals import FieldError

LONG_ENOUGH = 2_000

MOST = 100
"""Errors that are told of one request: nobody reads more, and each is searched for the token."""


def without(token: SecretStr, errors: Iterable[FieldError]) -> list[FieldError]:
    """The first of the errors; in those that quote the token, or a piece of it, that is hidden."""
    hiding = Hiding([token.get_secret_value()])

    def hide(text: str) -> str:
        hidden = hiding.quotable(text, limit=LONG_ENOUGH)
        return hidden if HIDDEN in hidden else text

    return [FieldError(hide(it.field), hide(it.message)) for it in islice(errors, MOST)]
