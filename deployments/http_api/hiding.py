"""The caller's token stays out of answers, even where they put it into the request itself."""

from collections.abc import Iterable

from pydantic import SecretStr

from blocks.quoting import HIDDEN, quotable
from flows.refusals import FieldError

LONG_ENOUGH = 2_000


def without(token: SecretStr, errors: Iterable[FieldError]) -> list[FieldError]:
    """The same errors; those that quote the token, or a piece of it, with that hidden."""

    def hide(text: str) -> str:
        hidden = quotable(text, [token.get_secret_value()], limit=LONG_ENOUGH)
        return hidden if HIDDEN in hidden else text

    return [FieldError(hide(error.field), hide(error.message)) for error in errors]
