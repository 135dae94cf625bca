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
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterIdempotencyKey,
)
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
FLOW = "configure"
DEPLOYMENT = f"{FLOW}/{JOURNEY}"
FIRST_STEP, LAST_STEP = "exchangeInitialToken", "completeConfigured"
POLL_SECONDS = 0.5
READ_AT_ONCE = 30
"""Journeys in one query: their steps fit into one page of Prefect's, which has 200."""

_CONFIGURE = FlowFilter(name=FlowFilterName(any_=[FLOW]))
_LONG_AGO = datetime.min.replace(tzinfo=UTC)

Phase = Literal["Running", "Succeeded", "Failed"]


class JourneyError(Exception):
    """A journey cannot be started, found or finished."""


class UnknownJourneyError(JourneyError):
    """There is no such journey."""


class JourneyRunningError(JourneyError):
    """The journey has no result yet."""


class JourneyFailedError(JourneyError):
    """The journey ended without configuring anything; the message says why.

    Attributes:
        code: FAILED, CRASHED or CANCELLED.
    """

    def __init__(self, reason: str, *, code: str = "FAILED") -> None:
        super().__init__(reason)
        self.code = code


class KeyReusedError(JourneyError):
    """The idempotency key belongs to a journey that was started with another request."""


class JourneyStatus(BaseModel):
    """How far a journey has come: the seed's `JourneyStatus`."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    journey_id: UUID
    journey_name: str = JOURNEY
    phase: Phase
    current_state: str
    updated_at: AwareDatetime
    attributes: dict[str, str]


@dataclass(frozen=True)
class Journey:
    """What was read of one journey at one moment."""

    status: JourneyStatus
    code: str
    reason: str
    parameters: Mapping[str, Any] = field(repr=False)

    @property
    def tenant_id(self) -> str:
        """Whose journey it is."""
        return self.status.attributes["tenantId"]

    def outcome(self) -> DailyOrdersBatchCloseConfigOutcome:
        """What it configured; raises JourneyRunningError or JourneyFailedError."""
        match self.status.phase:
            case "Running":
                raise JourneyRunningError(f"Journey {self.status.journey_id} has not finished yet.")
            case "Failed":
                raise JourneyFailedError(self.reason or "The journey failed.", code=self.code)
        # It says nothing that the parameters do not, so no result has to be stored for it.
        request = DailyOrdersBatchCloseConfigRequest.model_validate(
            from_parameters(self.parameters)
        )
        return DailyOrdersBatchCloseConfigOutcome.of(request)


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


async def start(
    request: Mapping[str, Any],
    access_token: str | SecretStr,
    *,
    idempotency_key: str | None = None,
) -> UUID:
    """Start a configure journey; returns its id, which is its flow run's id in Prefect.

    Args:
        request: The seed's DailyOrdersBatchCloseConfigRequest, in camelCase or snake_case.
        access_token: The caller's own access token.
        idempotency_key: Under the same key, one tenant starts the same request once only, and
            gets the same journey every time.

    Raises:
        InvalidRequestError: The request is refused; nothing was sent anywhere.
        KeyReusedError: The key was used for another request.
        JourneyError: The flow is not deployed.
    """
    key = _run_key(request, idempotency_key)
    begun = await _begun_with(key) if idempotency_key is not None else None
    # A repeated request was held against the clock when it came first.
    now = _LONG_AGO if begun else clock.now()
    # In a thread: laying out 100000 nights takes a second, in which an API would answer nobody.
    accepted = await asyncio.to_thread(parse_request, request, now=now)
    if begun is None:
        begun = await _begin(accepted, access_token, key)
    if _request_of(begun) != accepted:
        raise KeyReusedError("The key was used for another request: use a new key for this one.")
    return begun.id


async def status(journey_id: UUID) -> JourneyStatus:
    """How far the journey has come; raises UnknownJourneyError."""
    return (await _read_one(journey_id)).status


async def result(journey_id: UUID) -> DailyOrdersBatchCloseConfigOutcome:
    """What the journey configured.

    Raises UnknownJourneyError, JourneyRunningError or JourneyFailedError.
    """
    return (await _read_one(journey_id)).outcome()


async def read(journey_ids: Collection[UUID]) -> dict[UUID, Journey]:
    """Those of these journeys that exist, READ_AT_ONCE at most, in two queries for all of them."""
    filters = FlowRunFilter(id=FlowRunFilterId(any_=list(journey_ids)))
    async with get_client() as client:
        runs = await client.read_flow_runs(flow_filter=_CONFIGURE, flow_run_filter=filters)
        steps = await _latest_steps(client, [run for run in runs if _phase(run) != "Succeeded"])
    return {run.id: _journey(run, steps.get(run.id, FIRST_STEP)) for run in runs}


def unknown(journey_id: object) -> UnknownJourneyError:
    """The error for a journey that does not exist, or not for who asks."""
    return UnknownJourneyError(f"There is no journey {journey_id}.")


async def _read_one(journey_id: UUID) -> Journey:
    found = await read([journey_id])
    if journey_id not in found:
        raise unknown(journey_id)
    return found[journey_id]


def _run_key(request: Mapping[str, Any], idempotency_key: str | None) -> str:
    """Prefect's own idempotency key: of the tenant, so that tenants' keys are apart."""
    tenant = request.get("tenantId", request.get("tenant_id"))
    pair = [str(tenant), str(uuid4()) if idempotency_key is None else idempotency_key]
    return f"journey-{hashlib.sha256(json.dumps(pair).encode()).hexdigest()}"


async def _begun_with(key: str) -> FlowRun | None:
    filters = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
    async with get_client() as client:
        runs = await client.read_flow_runs(flow_filter=_CONFIGURE, flow_run_filter=filters)
    return runs[0] if runs else None


async def _begin(
    accepted: DailyOrdersBatchCloseConfigRequest, access_token: str | SecretStr, key: str
) -> FlowRun:
    """The run of this key: a new one, or the one that a request at the same time began first."""
    if not isinstance(access_token, SecretStr):
        access_token = SecretStr(access_token)
    block = caller_token.new_name()
    try:
        await caller_token.hand_over(access_token, block)
        run = await arun_deployment(
            DEPLOYMENT,
            parameters=to_parameters(accepted, block),
            timeout=0,
            as_subflow=False,
            idempotency_key=key,
        )
    except ObjectNotFound:
        await caller_token.withdraw(block)
        raise JourneyError(f"{DEPLOYMENT} is not deployed: run `prefect deploy --all`.") from None
    except BaseException:
        await caller_token.withdraw(block)
        raise
    if run.parameters.get("access_token_block") != block:
        await caller_token.withdraw(block)
    return run


def _request_of(run: FlowRun) -> DailyOrdersBatchCloseConfigRequest:
    return DailyOrdersBatchCloseConfigRequest.model_validate(from_parameters(run.parameters))


def _journey(run: FlowRun, latest_step: str) -> Journey:
    phase = _phase(run)
    status = JourneyStatus(
        journey_id=run.id,
        phase=phase,
        current_state=LAST_STEP if phase == "Succeeded" else latest_step,
        updated_at=run.state.timestamp if run.state else run.updated,
        attributes={
            "tenantId": str(run.parameters.get("tenant_id")),
            "batchId": str(run.parameters.get("batch_id")),
        },
    )
    code = run.state.type.value if run.state else ""
    reason = (run.state and run.state.message) or ""
    return Journey(status, code, reason, run.parameters)


def _phase(run: FlowRun) -> Phase:
    if run.state is None or not run.state.is_final():
        return "Running"
    return "Succeeded" if run.state.is_completed() else "Failed"


async def _latest_steps(client: PrefectClient, runs: Collection[FlowRun]) -> dict[UUID, str]:
    """The step that each run began last, in camelCase; nothing for those before their first."""
    if not runs:
        return {}
    steps = await client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs])),
        sort=TaskRunSort.EXPECTED_START_TIME_DESC,
        limit=200,
    )
    return {
        step.flow_run_id: to_camel(step.name.rsplit("-", 1)[0])
        for step in reversed(steps)
        if step.flow_run_id
    }
