"""What the fields that the contract does not know may hold, since they are kept as they came.

They are kept as JSON text, in one member. As structure Prefect would read them: it fills in what
looks like one of its templates or a reference to a block, answers no list that holds an integer
beyond 64 bits, and its client takes no nesting beyond some depth.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from pydantic.alias_generators import to_camel

from flows.refusals import FieldError

MAX_EXTRA_BYTES = 4096
"""Unknown fields are kept as long as their binding lives, so they are bounded, as JSON."""

MAX_DEPTH = 32
"""Levels of arrays and objects in an unknown field: parsers differ in how many they take."""

_SECRETS = {
    "accesstoken",
    "initialaccesstoken",
    "subjecttoken",
    "refreshtoken",
    "idtoken",
    "authorization",
    "clientsecret",
    "clientassertion",
}
_MEMBER = re.compile(r'"([^"\\]+)": ')  # a member's name in the JSON that json.dumps writes
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # valid JSON, but PostgreSQL's jsonb refuses it


class NotAnObjectError(ValueError):
    """The text is not a JSON object."""


def as_text(extras: Mapping[str, Any] | None) -> str | None:
    """The fields as the text of one JSON object, for storage; None if there are none."""
    return json.dumps(extras, ensure_ascii=False) if extras else None


def from_text(text: str) -> dict[str, Any]:
    """The fields that `as_text` made a text of; raises NotAnObjectError for any other text."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise NotAnObjectError
    return fields


def extra_errors(
    extras: Mapping[str, Any], known: Collection[str], *, is_new: bool = True
) -> Iterator[FieldError]:
    """Why these fields cannot be kept.

    Args:
        extras: The fields.
        known: The contract's own fields, by their Python names.
        is_new: Whether they come with a new request. What is stored was within older bounds.
    """
    sizes = {}
    for name, value in extras.items():
        text = _as_kept({name: value})
        sizes[name] = len((text or "").encode())
        if name in known:
            yield FieldError(to_camel(name), f"is given twice, as {name} too; give it once")
        elif is_new and _is_too_deep(value):
            reason = f"is nested too deeply to be kept: {MAX_DEPTH} levels at most"
            yield FieldError(name[:60], reason)
        elif text is None:
            yield FieldError(name[:60], "is not plain JSON, so it cannot be kept")
        elif _holds_a_secret(text):
            reason = "holds a secret, which does not belong in a request: remove it"
            yield FieldError(name[:60], reason)
    if sum(sizes.values()) > MAX_EXTRA_BYTES:
        yield FieldError(
            max(sizes, key=sizes.__getitem__)[:60],
            f"is too long to be kept: unknown fields may have {MAX_EXTRA_BYTES} bytes together",
        )


def _as_kept(value: object) -> str | None:
    """The value as JSON; None if JSON would change it or a database refuse it."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        same = json.loads(text.encode()) == value
    except (TypeError, ValueError, RecursionError):
        return None
    return text if same and not _NUL.search(text) else None


def _is_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        # Where one level has more values than there may be bytes, that is why it is refused.
        level = [inner for outer in level for inner in _inside(outer)][:MAX_EXTRA_BYTES]
    return any(isinstance(value, dict | list | tuple) for value in level)


def _inside(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _holds_a_secret(text: str) -> bool:
    """Whether a member, however deep, is named as a secret would be; spellings differ."""
    return any(re.sub(r"[\W_]", "", name).lower() in _SECRETS for name in _MEMBER.findall(text))
