"""The configure flow: once, with the caller's own access token, set up all the nights to come."""

from datetime import datetime
from typing import Annotated, Any

from anyio import CancelScope
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.client.schemas.schedules import RRuleSchedule
from prefect.context import FlowRunContext
from prefect.runtime import flow_run as this_run
from prefect.states import Completed, Failed
from pydantic import Field

from blocks import caller_token, clock, deployment, ownership, systems
from blocks import grant as grants
from blocks.binding import Binding
from blocks.caller_token import CallerTokenError, CallerTokenMissingError
from blocks.deployment import ScheduleError
from blocks.grant import Grant, GrantError
from blocks.lease import OwnershipLostError
from blocks.lock import only_holder
from blocks.oauth import GrantLostError, OAuthError, OAuthServer
from flows import undoing
from flows.admission import InvalidRequestError, parse_request
from flows.contract import DailyOrdersBatchCloseConfigOutcome, DailyOrdersBatchCloseConfigRequest
from flows.parameters import from_parameters, to_stored
from flows.step import step
from flows.superseded import SupersededError, is_over, refuse_superseded
from flows.waiting import PREFECT_TROUBLE, go_on_later

EXPECTED = (
    InvalidRequestError,
    SupersededError,
    CallerTokenError,
    OAuthError,
    GrantError,
    ScheduleError,
    systems.NotSavedError,
)
"""Failures whose message tells the caller what to do; no traceback would tell more."""


@step
async def exchange_initial_token(binding: Binding, access_token_block: str) -> Grant:
    """Exchange the caller's access token (RFC 8693) for a grant that outlives the caller."""
    subject_token = await caller_token.take(access_token_block)
    server = await systems.oauth_server()
    tokens = await server.exchange(subject_token, tenant_id=binding.tenant_id)
    return Grant.from_exchange(tokens, journey_id=_journey_id(), asked_at=_made_at())


@step
async def store_initial_tokens(binding: Binding, grant: Grant, *, revoke_replaced: bool) -> None:
    """Store the grant in its Secret block, and with it which one it replaces, to be revoked."""
    await grants.store(binding, grant, revoke_replaced=revoke_replaced)


@step
async def configure_schedule(binding: Binding, request: DailyOrdersBatchCloseConfigRequest) -> None:
    """Create or update the binding's own deployment with its one schedule.

    The runs carry the request as their context snapshot: the caller's token is no part of it.
    """
    await ownership.require()
    await deployment.upsert(
        binding,
        RRuleSchedule(rrule=request.recurrence.rrule, timezone=request.recurrence.timezone),
        parameters={
            "tenant_id": binding.tenant_id,
            "batch_id": binding.batch_id,
            "configured": to_stored(request),
        },
        first=request.recurrence.first,
    )


@step
async def prepare_config_outcome(
    request: DailyOrdersBatchCloseConfigRequest,
) -> DailyOrdersBatchCloseConfigOutcome:
    """Say what was scheduled."""
    return DailyOrdersBatchCloseConfigOutcome.of(request)


@step
async def complete_configured(binding: Binding) -> None:
    """Note that it is done, and revoke the grant that was replaced: nothing depends on it."""
    await ownership.require()  # or what somebody has cancelled meanwhile would stand
    server = await systems.oauth_server()
    if await grants.complete(binding, server):
        await _require_alive(binding, server)


@flow(
    name="configure",
    flow_run_name="{tenant_id}/{batch_id}",
    persist_result=False,
    validate_parameters=False,  # parse_request says it better, and for all fields at once
    on_cancellation=[undoing.undo_cancelled],
)
async def configure(  # noqa: PLR0913, PLR0917  (the seed's request, field by field, as a form shows it)
    tenant_id: Annotated[str, Field(examples=["acme"], json_schema_extra={"title": "Tenant"})],
    batch_id: Annotated[str, Field(examples=["eod"], json_schema_extra={"title": "Batch"})],
    first_run_at: Annotated[
        str,
        Field(
            examples=["2027-01-01T23:00:00+01:00[Europe/Paris]"],
            json_schema_extra={"title": "First run at"},
        ),
    ],
    interval: Annotated[str, Field(examples=["P1D"], json_schema_extra={"title": "Interval"})],
    max_runs: Annotated[int, Field(examples=[365], json_schema_extra={"title": "Number of runs"})],
    access_token_block: Annotated[
        str,
        Field(
            examples=["caller-my-access-token"],
            json_schema_extra={"title": "Secret block with your access token"},
        ),
    ],
    upstream_wait_duration: Annotated[
        str, Field(examples=["PT15M"], json_schema_extra={"title": "Wait for upstream"})
    ] = "PT15M",
    replication_delay_duration: Annotated[
        str, Field(examples=["PT5M"], json_schema_extra={"title": "Wait for replication"})
    ] = "PT5M",
    time_zone: Annotated[
        str | None,
        Field(examples=["Europe/Paris"], json_schema_extra={"title": "Time zone"}),
    ] = None,
    additional_fields: Annotated[
        str | dict[str, Any] | None,
        Field(
            examples=['{"costCentre": "4711"}'], json_schema_extra={"title": "Additional fields"}
        ),
    ] = None,
) -> State[Any]:
    """Set up the nightly close of one tenant's batch: once, and it runs every night by itself.

    Configuring the same tenant and batch again replaces what was configured, in place.

    Args:
        tenant_id: Whose orders are closed. Compared exactly: "Acme" is not "acme".
        batch_id: Which of the tenant's batches is closed.
        first_run_at: When the first close starts: an RFC 3339 timestamp with its offset. Add the
            zone in brackets, or below, so that 23:00 stays 23:00 when the clocks change.
        interval: How long from one close to the next, as an ISO 8601 duration: P1D is every night.
        max_runs: How many closes to schedule; after the last one everything is cleaned up.
        access_token_block: The name of the Secret block that holds your access token: it begins
            with caller-. The block is deleted as soon as the token has been exchanged, an hour
            after it was stored unless a journey is about to take it, and a day after it was stored
            in any case.
        upstream_wait_duration: How long upstream systems need after the scheduled start.
        replication_delay_duration: How long to wait between the snapshot and the close.
        time_zone: The IANA zone of the first run, if its timestamp does not say it.
        additional_fields: Anything else to keep with the configuration, as a JSON object; never a
            secret.
    """
    parameters = locals()
    try:
        # Judged by when it was asked for: a journey that goes on after a crash is not late.
        request = parse_request(from_parameters(parameters), now=_asked_at())
        outcome = await _configure(request, access_token_block)
    except Exception as error:
        if isinstance(error, PREFECT_TROUBLE):
            await go_on_later(error)
        await caller_token.end_journey(access_token_block)
        if isinstance(error, EXPECTED):
            return _failed(error)
        raise
    return Completed(
        message=f"{outcome.status}: {outcome.max_runs} runs from {outcome.first_run_at} on",
        data=outcome.model_dump(mode="json", by_alias=True),
    )


def _failed(error: Exception) -> State[Any]:
    """How the journey ends; by the state's name the Journeys API knows one that had no token."""
    is_missing = isinstance(error, CallerTokenMissingError)
    return Failed(name=caller_token.MISSING if is_missing else "Failed", message=str(error))


async def _configure(
    request: DailyOrdersBatchCloseConfigRequest, access_token_block: str
) -> DailyOrdersBatchCloseConfigOutcome:
    """One configuration of this binding at a time: two would undo each other's schedule."""
    binding = Binding(request.tenant_id, request.batch_id)
    async with only_holder(f"configure-{binding.slug}"):
        return await _steps(binding, request, access_token_block)


async def _steps(
    binding: Binding, request: DailyOrdersBatchCloseConfigRequest, access_token_block: str
) -> DailyOrdersBatchCloseConfigOutcome:
    """The steps of the configuration in their order."""
    await refuse_superseded(binding, _made_at())
    if await is_over(binding, _journey_id()):
        return DailyOrdersBatchCloseConfigOutcome.of(request)
    await _obtain_grant(binding, access_token_block)
    try:
        await _schedule(binding, request)
        outcome = await prepare_config_outcome(request)
        await complete_configured(binding)
    except OwnershipLostError:
        await undoing.leave(binding, _journey_id())
        raise
    return outcome


async def _schedule(binding: Binding, request: DailyOrdersBatchCloseConfigRequest) -> None:
    try:
        await _require_access(binding)
        await configure_schedule(binding, request)
    except Exception as error:
        if isinstance(error, PREFECT_TROUBLE):
            await go_on_later(error)
        await undoing.undo_failed(binding)
        raise


async def _obtain_grant(binding: Binding, access_token_block: str) -> None:
    """Exchange and store, unless this journey has done so before a crash."""
    stored = await grants.find(binding)
    if not stored or not stored.journey_id or stored.journey_id != _journey_id():
        # Whoever cancels the journey now would leave a grant at the OAuth server that nobody has.
        with CancelScope(shield=True):
            await _exchange_and_store(binding, access_token_block)
    await caller_token.withdraw(access_token_block)


async def _exchange_and_store(binding: Binding, access_token_block: str) -> None:
    server, before = await systems.oauth_server(), await undoing.stands_before(binding)
    grant = await exchange_initial_token(binding, access_token_block)
    if grant.journey_id:
        grant = grant.model_copy(update={"instead_of": before})
    try:
        await store_initial_tokens(binding, grant, revoke_replaced=server.revoke_replaced)
    except (OwnershipLostError, GrantError):
        await undoing.abandon(grant)
        raise


async def _require_access(binding: Binding) -> None:
    """Raise GrantError if the grant gives no access token that could be sent at night.

    An exchange may give a refresh token alone (RFC 8693 2.2.1): whether that one gives more is
    better found out now, with the caller there.
    """
    grant = await grants.load(binding)
    if grant.access_token is None:
        await grants.access_token(binding, await systems.oauth_server())


def _journey_id() -> str | None:
    run_id: str | None = this_run.id
    return run_id


def _made_at() -> datetime:
    """When Prefect's server made this run: of two configurations, the later one stands."""
    context = FlowRunContext.get()
    created = context.flow_run.created if context and context.flow_run else None
    return datetime.fromisoformat(created.isoformat()) if created else clock.now()


def _asked_at() -> datetime:
    planned = this_run.scheduled_start_time
    return min(clock.now(), datetime.fromisoformat(planned.isoformat()))


async def _require_alive(binding: Binding, server: OAuthServer) -> None:
    """Some servers end a caller's whole session, the new grant with it, where one token is revoked.

    Better found out now, with the caller there, than tonight.
    """
    try:
        await grants.refresh(binding, server)
    except GrantLostError:
        raise GrantError(
            "The OAuth server ended the new grant together with the one it replaced: switch"
            " 'Revoke replaced grants' off in the OAuth Server block, then configure again."
        ) from None
    except OAuthError:
        return  # it cannot be told now; the first night will
