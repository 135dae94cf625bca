"""Which problem each error of the parts below becomes: the one place that knows both."""

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from blocks.caller_token import CallerTokenError
from blocks.lock import LockedError
from blocks.oauth import CallerRefusedError, OAuthError
from blocks.prefect_refusal import why_prefect_refuses
from blocks.systems import NotSavedError
from deployments.batches import UnknownBatchError
from deployments.http_api.problems import (
    RETRY_AFTER,
    Fault,
    ProblemError,
    unauthorized,
    unavailable,
)
from deployments.journey import JourneyError, JourneyRunningError, UnknownJourneyError
from deployments.journeys import KeyReusedError
from flows.admission import InvalidRequestError
from flows.requests import NightError

logger = logging.getLogger("uvicorn.error")

PREFECT_AWAY = (
    "Prefect does not answer at the moment. What was asked for may have been done all the same: ask"
    " again soon, for a journey with the same Idempotency-Key."
)


def install(app: FastAPI) -> None:
    """Answer every error with its problem."""
    for kind, to_problem in PROBLEMS.items():
        app.add_exception_handler(kind, _handler(to_problem))


def _handler(to_problem: Callable[[Any], ProblemError]) -> Callable[[Request, Exception], Response]:
    def handle(request: Request, error: Exception) -> Response:
        problem = to_problem(error)
        if problem.problem.status == HTTPStatus.METHOD_NOT_ALLOWED:
            problem.headers["Allow"] = ", ".join(_methods_at(request))
        if refusal := why_prefect_refuses(error):
            logger.error("%s", refusal)
        elif problem.problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
            # Its kind only: the text of an HTTP error may quote what was sent.
            logger.warning("503 after %s", type(error).__name__)
        return problem.response()

    return handle


def _methods_at(request: Request) -> list[str]:
    """Every method of the path: the router names only those of the first route it found there."""
    routes: list[Route] = request.app.state.routes
    matching = [it for it in routes if it.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in matching for method in route.methods or ()})


def _invalid(error: InvalidRequestError) -> ProblemError:
    faults = [Fault.in_body(one) for one in error.errors]
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY, "The request cannot be accepted as it is.", errors=faults
    )


def _bad_parameter(error: RequestValidationError) -> ProblemError:
    """400 for a header; an id that can be none is answered like one that is unknown."""
    wrong = [(str(part) for part in one["loc"]) for one in error.errors()]
    (place, name), *_ = [(next(parts), next(parts)) for parts in wrong]
    if place == "path":
        return _missing("journey" if name == "journeyId" else "batch")
    faults = [Fault(field=name, detail=f"{name} is not a header that can be read.")]
    return ProblemError(HTTPStatus.BAD_REQUEST, "A header cannot be read.", errors=faults)


def _missing(what: str) -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, f"There is no such {what}.")


def _http(error: HTTPException) -> ProblemError:
    """What the router refuses: no such path (404), no such method there (405, with Allow)."""
    status = HTTPStatus(error.status_code)
    return ProblemError(status, str(error.detail), headers=error.headers)


def _prefect(error: Exception) -> ProblemError:
    """What Prefect refuses for good is not worth another try: no Retry-After."""
    if refusal := why_prefect_refuses(error):
        return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, refusal)
    return unavailable(PREFECT_AWAY)


def _key_reused(error: KeyReusedError) -> ProblemError:
    # 422 as the IETF draft on the Idempotency-Key header wants it (section 2.7).
    fault = Fault(field="Idempotency-Key", detail=str(error))
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), errors=[fault])


PROBLEMS: dict[type[Exception], Callable[[Any], ProblemError]] = {
    ProblemError: lambda error: error,
    RequestValidationError: _bad_parameter,
    HTTPException: _http,
    InvalidRequestError: _invalid,
    KeyReusedError: _key_reused,
    UnknownJourneyError: lambda _: _missing("journey"),
    UnknownBatchError: lambda _: _missing("batch"),
    JourneyRunningError: lambda error: ProblemError(HTTPStatus.CONFLICT, str(error)),
    CallerRefusedError: lambda error: unauthorized(str(error), error="invalid_token"),
    JourneyError: lambda error: unavailable(str(error)),
    NotSavedError: lambda error: unavailable(str(error)),
    OAuthError: lambda _: unavailable("Callers cannot be verified at the moment."),
    NightError: lambda error: unavailable(str(error)),
    LockedError: lambda _: ProblemError(
        HTTPStatus.CONFLICT,
        "The batch is being configured or closed at the moment: try again in a minute.",
        headers={"Retry-After": RETRY_AFTER},
    ),
    CallerTokenError: lambda _: unavailable(PREFECT_AWAY),
    httpx.HTTPError: _prefect,
    TimeoutError: lambda _: unavailable(PREFECT_AWAY),
    Exception: lambda _: ProblemError(
        HTTPStatus.INTERNAL_SERVER_ERROR, "Something is wrong here; the log says what."
    ),
}
