"""What a reply says in its own words.

There is no one error format: RFC 9457 has type, title and detail; others have error, code or
message, flat or inside an error object.
"""

import re
from collections.abc import Iterator
from typing import Any

from blocks.http import NotJsonError, Reply

_EXPLAINING_FIELDS = ("error", "errorCode", "code", "type", "title", "reason", "detail", "message")

_YES_OR_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def is_json_object(reply: Reply) -> bool:
    """Whether the body can be read at all."""
    try:
        reply.json_object()
    except NotJsonError:
        return False
    return True


def says_ok(reply: Reply) -> bool | None:
    """Whether the work was done, as the member `ok` says; None where it says neither yes nor no.

    A success that does not mention `ok` is a yes. So are true, 1, and the texts "true", "yes" and
    "1"; false, 0, "false", "no" and "0" are a no, in any case and with white space around them. A
    close that happened must not be told as failed for its spelling, nor one that failed as done:
    anything else, null included, is no definite answer.
    """
    said = next(_objects(reply), {}).get("ok", True)
    return _YES_OR_NO.get(str(said).strip().lower()) if isinstance(said, str | int) else None


def says_already_closed(reply: Reply) -> bool:
    """Whether it says that the batch is closed already: already_closed, alreadyClosed ..."""
    return _says(reply, "already(been)?closed")


def says_in_progress(reply: Reply) -> bool:
    """Whether it says that a request with this key is under way (the draft's own 409)."""
    return _says(reply, "inprogress|^processing$|(still|being|currently)process")


def snapshots_named(reply: Reply) -> set[str]:
    """The snapshot ids that the body names."""
    ids = (part.get("snapshotId") for part in _objects(reply))
    return {str(snapshot_id) for snapshot_id in ids if snapshot_id is not None}


def explanations(reply: Reply) -> list[str]:
    """What the body says in its error fields."""
    words = (part.get(field) for part in _objects(reply) for field in _EXPLAINING_FIELDS)
    return list(dict.fromkeys(word for word in words if isinstance(word, str) and word))


def _says(reply: Reply, pattern: str) -> bool:
    """Whether an explanation matches, with only its letters left: spellings differ."""
    letters = (re.sub("[^a-z]", "", words.lower()) for words in explanations(reply))
    return any(re.search(pattern, word) for word in letters)


def _objects(reply: Reply) -> Iterator[dict[str, Any]]:
    """The body and the objects directly inside it; nothing where the body is no JSON object."""
    if is_json_object(reply):
        body = reply.json_object()
        yield body
        yield from (value for value in body.values() if isinstance(value, dict))
