"""What the fields that the contract does not know may hold, since they are kept as they came."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic.alias_generators import to_camel

from flows.refusals import FieldError

MAX_EXTRA_BYTES = 4096
"""Unknown fields are kept as long as their binding lives, so they are bounded, as JSON."""

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


def extra_errors(extras: Mapping[str, Any], known: Collection[str]) -> Iterator[FieldError]:
    """Why these fields cannot be kept; `known` are the contract's own, by their Python names."""
    sizes = {}
    for name, value in extras.items():
        text = _as_kept({name: value})
        sizes[name] = len((text or "").encode())
        if name in known:
            yield FieldError(to_camel(name), f"is given twice, as {name} too; give it once")
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


def _holds_a_secret(text: str) -> bool:
    """Whether a member, however deep, is named as a secret would be; spellings differ."""
    return any(re.sub(r"[\W_]", "", name).lower() in _SECRETS for name in _MEMBER.findall(text))
