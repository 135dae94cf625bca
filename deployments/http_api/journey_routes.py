"""The seed's three operations: start a journey, get its status, get its result."""

import asyncio
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Path
from starlette.requests import Request
from starlette.responses import Response

from deployments import journeys
from deployments.http_api.board import Board
from deployments.http_api.body import json_object
from deployments.http_api.callers import Identified, Token, require_tenant
from deployments.http_api.hiding import without
from deployments.http_api.idempotency import IdempotencyKey, read_key
from deployments.http_api.operations import described
from deployments.http_api.paths import RESULT, START, STATUS, status_url
from deployments.http_api.prefect import WRITE_SECONDS, prefect_at_hand
from deployments.http_api.shapes import JourneyOutcome, JourneyStatus, StartAccepted
from deployments.http_api.waiting import PLACES, seconds_to_wait, until_finished
from deployments.journey import Journey, unknown
from flows.admission import InvalidRequestError

router = APIRouter(tags=["journeys"])

JourneyId = Annotated[
    UUID, Path(alias="journeyId", description="The id that the start was answered with.")
]
Prefer = Annotated[
    str | None,
    Header(
        description=(
            "Extension: `wait=30` answers when the journey has ended, or after so many seconds, "
            "60 at most (RFC 7240). Where too many wait already, the answer comes at once, "
            "without `Preference-Applied`."
        ),
        examples=["wait=30"],
    ),
]


@router.post(START, status_code=202, **described("start"))
async def start(
    request: Request,
    response: Response,
    caller: Identified,
    token: Token,
    idempotency_key: IdempotencyKey = None,
) -> StartAccepted:
    """Configure the nightly close of a tenant's batch, with your own access token.

    The token is exchanged once and forgotten. Configuring the same batch again replaces what was
    configured. The answer comes before the work is done: see the journey's status.
    """
    wanted = await json_object(request)
    require_tenant(caller, wanted.get("tenantId", wanted.get("tenant_id")))
    key = read_key(idempotency_key, token)
    try:
        async with prefect_at_hand(WRITE_SECONDS):
            journey_id = await journeys.start(wanted, token, idempotency_key=key)
    except InvalidRequestError as refused:
        errors = without(token, refused.errors)
    else:
        response.headers["Location"] = status_url(request, journey_id)
        return StartAccepted.of(request, journey_id)
    raise InvalidRequestError(errors)


@router.get(STATUS, **described("getStatus"))
async def get_status(
    request: Request,
    response: Response,
    journey_id: JourneyId,
    caller: Identified,
    prefer: Prefer = None,
) -> JourneyStatus:
    """How far the journey has come: `Running` until it is `Succeeded` or `Failed`.

    `currentState` is the step that it is at. An answer may be half a second old.
    """
    board: Board = request.app.state.board
    journey = _seen_by(caller, await board.journey(journey_id))
    seconds = seconds_to_wait(prefer)
    if seconds is not None:
        with PLACES.taken_by(caller) as has_place:
            if has_place:
                response.headers["Preference-Applied"] = f"wait={seconds}"
                journey = await until_finished(board, journey, seconds, request.app.state.stopping)
    return JourneyStatus.of(request, journey)


@router.get(RESULT, response_model_exclude_none=True, **described("getResult"))
async def get_result(request: Request, journey_id: JourneyId, caller: Identified) -> JourneyOutcome:
    """How the journey ended: its `output` if it succeeded, its `error` if it failed.

    409 while it is running.
    """
    board: Board = request.app.state.board
    journey = _seen_by(caller, await board.journey(journey_id))
    # In a thread, because reading the request again lays out all its nights.
    return await asyncio.to_thread(JourneyOutcome.of, request, journey)


def _seen_by(caller: Identified, journey: Journey) -> Journey:
    """The journey, if the caller may see it; otherwise there is none, as far as they can tell."""
    if not caller.may_act_for(journey.tenant_id):
        raise unknown(journey.status.journey_id)
    return journey
