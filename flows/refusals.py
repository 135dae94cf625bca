"""How a request is refused: which field, why, and what it held, briefly."""

import reprlib
from dataclasses import dataclass

_BRIEF = 60


@dataclass(frozen=True)
class FieldError:
    """Why one field is refused; `message` continues a sentence that begins with `field`."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field} {self.message}"


class InvalidRequestError(ValueError):
    """The request is refused; `errors` has a reason for every field at fault."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = errors


def brief(value: object) -> str:
    """The value for a message: its repr, 60 characters at most."""
    short = reprlib.Repr()
    short.maxstring = _BRIEF
    try:
        text = short.repr(value)
    except ValueError:  # CPython refuses to print integers of thousands of digits
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 3]}..."
