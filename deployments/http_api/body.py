"""A request's JSON body, read within bounds."""

import json
from http import HTTPStatus
from typing import Any

from starlette.requests import Request

from deployments.http_api.problems import ProblemError

MAX_BYTES = 64 * 1024
"""Of a request's body: the contract's fields and 4 KiB of others are far less."""


async def json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object; raises ProblemError: 400, 413, 415."""
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "Send the request as application/json.",
            headers={"Accept": "application/json"},
        )
    try:
        value = json.loads(await _read(request))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "The body is not a JSON object.")
    return value


async def _read(request: Request) -> bytes:
    # Counted as it comes: Content-Length may be missing, or a lie.
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise ProblemError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The body is larger than {MAX_BYTES} bytes.",
                headers={"Connection": "close"},
            )
    return bytes(body)
