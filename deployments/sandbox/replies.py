"""The one shape in which the sandbox's servers answer, before it is put on the wire."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """A status, a JSON object and headers; `raw` replaces the JSON where a fault wants that."""

    status: int
    body: Body
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None

    def content(self) -> bytes:
        """The bytes of the body."""
        return json.dumps(self.body).encode() if self.raw is None else self.raw

    def response(self) -> Response:
        """The reply as Starlette sends it. Nothing here may be cached (RFC 6749 5.1)."""
        headers = {"Cache-Control": "no-store", **self.headers}
        return Response(self.content(), self.status, headers, media_type="application/json")


class RefusedError(Exception):
    """The request is refused with this reply."""

    def __init__(
        self, status: int, error: str, *, why: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(error)
        body = {"error": error, "error_description": why} if why else {"error": error}
        self.reply = Reply(status, body, headers or {})
