"""Start a configure journey, see how it goes, get its result: from Python.

    outcome = await configure_batch(
        {
            "tenantId": "acme",
            "batchId": "eod",
            "firstRunAt": "2027-01-01T23:00:00+01:00[Europe/Paris]",
            "interval": "P1D",
            "maxRuns": 365,
        },
        access_token,
    )

The flow itself runs wherever the workers of its work pool run.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Literal
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import TaskRunSort
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from pydantic import AwareDatetime, BaseModel, ConfigDict, SecretStr
from pydantic.alias_generators import to_camel

from blocks import caller_token, clock
from flows.admission import parse_request
from flows.configure import from_parameters, to_parameters
from flows.contract import DailyOrdersBatchCloseConfigOutcome, DailyOrdersBatchCloseConfigRequest

JOURNEY = "daily-orders-batch-close"
DEPLOYMENT = f"configure/{JOURNEY}"
FIRST_STEP, LAST_STEP = "exchangeInitialToken", "completeConfigured"
POLL_SECONDS = 0.5

Phase = Literal["Running", "Succeeded", "Failed"]


class JourneyError(Exception):
    """A journey cannot be started, found or finished."""


class UnknownJourneyError(JourneyError):
    """There is no such journey."""


class JourneyRunningError(JourneyError):
    """The journey has no result yet."""


class JourneyFailedError(JourneyError):
    """The journey ended without configuring anything; the message says why."""


class JourneyStatus(BaseModel):
    """How far a journey has come: the seed's `JourneyStatus`."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    journey_id: UUID
    journey_name: str = JOURNEY
    phase: Phase
    current_state: str
    updated_at: AwareDatetime
    attributes: dict[str, str]


async def configure_batch(
    request: Mapping[str, Any], access_token: str | SecretStr, *, within: float = 300.0
) -> DailyOrdersBatchCloseConfigOutcome:
    """Configure a nightly batch close and wait until it is scheduled.

    Args:
        request: The seed's DailyOrdersBatchCloseConfigRequest, in camelCase or snake_case.
        access_token: The caller's own access token. It is exchanged once and then forgotten.
        within: Seconds to wait for a worker to do it.

    Raises:
        InvalidRequestError: The request is refused; nothing was sent anywhere.
        JourneyFailedError: It could not be configured; the message says what to do.
        TimeoutError: No worker finished it in time; it may still happen.
    """
    journey_id = await start(request, access_token)
    async with asyncio.timeout(within):
        while (await status(journey_id)).phase == "Running":  # noqa: ASYNC110  (another machine's)
            await asyncio.sleep(POLL_SECONDS)
    return await result(journey_id)


async def start(request: Mapping[str, Any], access_token: str | SecretStr) -> UUID:
    """Start a configure journey; returns its id, which is its flow run's id in Prefect.

    Raises InvalidRequestError before anything is sent anywhere.
    """
    accepted = parse_request(request, now=clock.now())
    if not isinstance(access_token, SecretStr):
        access_token = SecretStr(access_token)
    block = await caller_token.hand_over(access_token)
    try:
        run = await arun_deployment(
            DEPLOYMENT,
            parameters=to_parameters(accepted, block),
            timeout=0,
            as_subflow=False,
        )
    except ObjectNotFound:
        await caller_token.discard(block)
        raise JourneyError(f"{DEPLOYMENT} is not deployed: run `prefect deploy --all`.") from None
    except BaseException:
        await caller_token.discard(block)
        raise
    return run.id


async def status(journey_id: UUID) -> JourneyStatus:
    """How far the journey has come; raises UnknownJourneyError."""
    async with get_client() as client:
        run = await _read(client, journey_id)
        phase = _phase(run)
        step = LAST_STEP if phase == "Succeeded" else await _latest_step(client, run)
    return JourneyStatus(
        journey_id=run.id,
        phase=phase,
        current_state=step,
        updated_at=run.state.timestamp if run.state else run.updated,
        attributes={
            "tenantId": str(run.parameters["tenant_id"]),
            "batchId": str(run.parameters["batch_id"]),
        },
    )


async def result(journey_id: UUID) -> DailyOrdersBatchCloseConfigOutcome:
    """What the journey configured.

    Raises UnknownJourneyError, JourneyRunningError or JourneyFailedError.
    """
    async with get_client() as client:
        run = await _read(client, journey_id)
    match _phase(run):
        case "Running":
            raise JourneyRunningError(f"Journey {journey_id} has not finished yet.")
        case "Failed":
            raise JourneyFailedError((run.state and run.state.message) or "The journey failed.")
    # The outcome says nothing that the parameters do not, so no result has to be stored for it.
    request = DailyOrdersBatchCloseConfigRequest.model_validate(from_parameters(run.parameters))
    return DailyOrdersBatchCloseConfigOutcome.of(request)


async def _read(client: PrefectClient, journey_id: UUID) -> FlowRun:
    try:
        run = await client.read_flow_run(journey_id)
    except ObjectNotFound:
        run = None
    if run is None or "access_token_block" not in run.parameters:
        raise UnknownJourneyError(f"There is no journey {journey_id}.")
    return run


def _phase(run: FlowRun) -> Phase:
    if run.state is None or not run.state.is_final():
        return "Running"
    return "Succeeded" if run.state.is_completed() else "Failed"


async def _latest_step(client: PrefectClient, run: FlowRun) -> str:
    steps = await client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
        sort=TaskRunSort.EXPECTED_START_TIME_DESC,
        limit=1,
    )
    return to_camel(steps[0].name.rsplit("-", 1)[0]) if steps else FIRST_STEP
