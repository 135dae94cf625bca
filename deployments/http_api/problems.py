"""How a request fails: RFC 9457 problem details, with the field at fault."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Self

from pydantic import BaseModel, Field
from starlette.responses import Response

from flows.refusals import FieldError

MEDIA_TYPE = "application/problem+json"


class Fault(BaseModel):
    """One field at fault; `pointer` (RFC 6901) leads to it when it is in the request's body."""

    field: str = Field(examples=["firstRunAt"])
    pointer: str | None = Field(default=None, examples=["#/firstRunAt"])
    detail: str

    @classmethod
    def in_body(cls, error: FieldError) -> Self:
        """The fault of a member of the request's body."""
        escaped = error.field.replace("~", "~0").replace("/", "~1")
        detail = f"{error.field} {error.message}"
        return cls(field=error.field, pointer=f"#/{escaped}", detail=detail)


class Problem(BaseModel):
    """RFC 9457 problem details. `type` is about:blank: the status says it all (section 4.2.1)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[Fault] | None = None


class ProblemError(Exception):
    """The request is answered with this problem."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = Problem(
            title=status.phrase, status=status, detail=detail, errors=list(errors) or None
        )
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The problem as it is sent."""
        content = self.problem.model_dump_json(exclude_none=True)
        headers = {"Cache-Control": "no-store", **self.headers}
        return Response(content, self.problem.status, headers, media_type=MEDIA_TYPE)


RETRY_AFTER = "5"
"""Seconds, for 503: what is away is rarely back sooner."""


def unavailable(detail: str) -> ProblemError:
    """503: the same request may succeed later, and does no harm again (RFC 9110 15.6.4)."""
    headers = {"Retry-After": RETRY_AFTER}
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=headers)


def unauthorized(detail: str, *, error: str | None = None) -> ProblemError:
    """401 with its challenge; `error` only where a token was presented (RFC 6750 3.1)."""
    challenge = 'Bearer realm="journeys"' + (f', error="{error}"' if error else "")
    headers = {"WWW-Authenticate": challenge}
    return ProblemError(HTTPStatus.UNAUTHORIZED, detail, headers=headers)
