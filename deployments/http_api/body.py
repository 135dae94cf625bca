"""A request's JSON body, read within bounds."""

import json
from http import HTTPStatus
from typing import Any

from starlette.requests import Request

from deployments.http_api.problems import ProblemError
from flows.refusals import FieldError, InvalidRequestError

MAX_BYTES = 64 * 1024
"""Of a request's body: the contract's fields and 4 KiB of others are far less."""


async def json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object.

    Raises ProblemError: 400, 413, 415; InvalidRequestError where a member is given twice, which
    every reader understands differently (RFC 8259 4), or where it is nested beyond all reason.
    """
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "Send the request as application/json.",
            headers={"Accept": "application/json"},
        )
    try:
        value = json.loads(await _read(request), object_pairs_hook=_once_each)
    except InvalidRequestError:
        raise
    except RecursionError:
        raise InvalidRequestError([FieldError("request", "is nested too deeply")]) from None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "The body is not a JSON object.")
    return value


def _once_each(members: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(members)
    if len(value) < len(members):
        raise InvalidRequestError([FieldError("request", "has a member twice; give each once")])
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
