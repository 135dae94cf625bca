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
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from blocks import caller_token, clock
from deployments.journey import (
    FLOW,
    JOURNEY,
    OF_JOURNEYS,
    JourneyError,
    JourneyFailedError,
    JourneyStatus,
    read_one,
)
from deployments.own_token import refuse_own_token
from flows.admission import parse_request
from flows.contract import DailyOrdersBatchCloseConfigOutcome, DailyOrdersBatchCloseConfigRequest
from flows.parameters import from_parameters, to_parameters

__all__ = ["JourneyError", "JourneyFailedError", "configure_batch", "result", "start", "status"]

DEPLOYMENT = f"{FLOW}/{JOURNEY}"
POLL_SECONDS = 0.5

BEGUN_WITHIN = caller_token.TAKEN_WITHIN / 2
"""How long Prefect may take to make a run: a worker deletes a token later that no run names."""

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class KeyReusedError(JourneyError):
    """The idempotency key belongs to a journey that was started with another request."""


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
        httpx.HTTPError, TimeoutError: Prefect does not answer. The journey may have begun all the
            same: the same key tells, for which nothing begins twice.
    """
    refuse_own_token(request, access_token)
    key = _run_key(request, idempotency_key)
    begun, key = (None, key) if idempotency_key is None else await _begun_with(key)
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
    return (await read_one(journey_id)).status


async def result(journey_id: UUID) -> DailyOrdersBatchCloseConfigOutcome:
    """What the journey configured.

    Raises UnknownJourneyError, JourneyRunningError or JourneyFailedError.
    """
    return (await read_one(journey_id)).outcome()


def _run_key(request: Mapping[str, Any], idempotency_key: str | None) -> str:
    """Prefect's own idempotency key: of the tenant, so that tenants' keys are apart."""
    tenant = request.get("tenantId", request.get("tenant_id"))
    pair = [str(tenant), str(uuid4()) if idempotency_key is None else idempotency_key]
    return f"journey-{hashlib.sha256(json.dumps(pair).encode()).hexdigest()}"


async def _begun_with(key: str) -> tuple[FlowRun | None, str]:
    """The run of this key, or none and the key for it.

    One that failed because it never had its token does not count: another takes its place, with the
    token that came with the repeated request.
    """
    async with get_client() as client:
        while True:
            filters = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
            runs = await client.read_flow_runs(flow_filter=OF_JOURNEYS, flow_run_filter=filters)
            if not runs or runs[0].state_name != caller_token.MISSING:
                return (runs[0] if runs else None), key
            key = _key_after(key, runs[0].id)


def _key_after(key: str, run_id: UUID) -> str:
    return f"journey-{hashlib.sha256(f'{key} {run_id}'.encode()).hexdigest()}"


async def _begin(
    accepted: DailyOrdersBatchCloseConfigRequest, access_token: str | SecretStr, key: str
) -> FlowRun:
    """The run of this key: a new one, or the one that a request at the same time began first."""
    if not isinstance(access_token, SecretStr):
        access_token = SecretStr(access_token)
    block = await _hand_over(access_token)
    try:
        run = await _make_run(accepted, block, key)
    except ObjectNotFound:
        await caller_token.withdraw(block)
        raise JourneyError(f"{DEPLOYMENT} is not deployed: run `prefect deploy --all`.") from None
    except httpx.HTTPStatusError as error:
        if error.response.is_client_error:
            await caller_token.withdraw(block)
        raise
    # After any other error nobody knows whether the run exists, and would have its token taken from
    # it: a worker deletes the token if it does not.
    if run.parameters.get("access_token_block") != block:
        await caller_token.withdraw(block)
    return run


async def _hand_over(access_token: SecretStr) -> str:
    block = caller_token.new_name()
    try:
        return await caller_token.hand_over(access_token, block)
    except BaseException:
        await caller_token.withdraw(block)  # it may have been stored all the same
        raise


async def _make_run(accepted: DailyOrdersBatchCloseConfigRequest, block: str, key: str) -> FlowRun:
    """Make the run within the time for which its token is kept without one."""
    async with asyncio.timeout(BEGUN_WITHIN.total_seconds()):
        return await arun_deployment(
            DEPLOYMENT,
            parameters=to_parameters(accepted, block),
            timeout=0,
            as_subflow=False,
            idempotency_key=key,
        )


def _request_of(run: FlowRun) -> DailyOrdersBatchCloseConfigRequest:
    return DailyOrdersBatchCloseConfigRequest.model_validate(from_parameters(run.parameters))
