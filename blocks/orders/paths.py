"""The paths of the two operations: which placeholders they may hold, and how ids are filled in."""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote


def check_path(path: str, name: str, placeholders: Sequence[str]) -> str:
    """The path, if it is one that these placeholders fill; raises ValueError by its name if not."""
    fixed = re.sub("|".join(f"{{{placeholder}}}" for placeholder in placeholders), "", path)
    if not path.startswith("/") or re.search(r"[{}#]|[^!-~]", fixed):
        raise ValueError(
            f"{name} must be a path that starts with / and has no placeholders "
            f"but {{{'}, {'.join(placeholders)}}}"
        )
    return path


def fill_path(path: str, ids: Mapping[str, str]) -> str:
    """The path with each placeholder replaced by its id.

    Raises:
        ValueError: An id cannot stand in a path, or is no text that can be sent at all.
    """
    for name, value in ids.items():
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{name} holds half a surrogate pair, which is no text")

    def segment(placeholder: re.Match[str]) -> str:
        name = placeholder[1]
        if ids[name] in {"", ".", ".."}:
            # Dots survive percent-encoding and lead to another path (RFC 3986, 5.2.4).
            raise ValueError(f"{name} {ids[name]!r} cannot stand in a URL's path")
        return quote(ids[name], safe="")

    return re.sub(r"\{(\w+)\}", segment, path)
