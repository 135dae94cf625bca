"""The daily close flow: one night of one binding, from the refresh to the recorded outcome.

The flow's body runs from its first line again after every wait and after every crash. Each step
therefore either finds its work noted in the binding's context and is passed over, or repeats a
request that its receiver recognises by the idempotency key.
"""

from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.runtime import flow_run as this_run
from prefect.states import Completed, Failed
from pydantic import Field

from blocks import clock, deployment, history, systems
from blocks import grant as grants
from blocks.binding import Binding
from blocks.context import LastBatch
from blocks.grant import GrantError
from blocks.oauth import GrantLostError, OAuthError
from blocks.orders import Closed, OrdersError, Snapshot, idempotency_key
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.night import Night, NightError, TooLateError
from flows.step import step
from flows.waiting import PREFECT_TROUBLE, go_on_later, wait_until

UNKNOWN = "The close was sent, but its answer was lost: look in the Orders API whether it happened."


@step
async def run_batch(night: Night) -> None:
    """Enter the night: refresh the grant. What comes back is stored before anything is done."""
    server = await systems.oauth_server()
    grant = await grants.refresh(night.binding, server, unless=night.is_refreshed_by)
    night.is_refreshed = True
    get_run_logger().info("Refreshed; the access token lives until %s", grant.expires_at)


async def wait_for_upstream(night: Night) -> None:
    """Wait until upstream systems are done, counted from the scheduled start."""
    await wait_until(night.upstream_done_at, name="WaitForUpstream")
    night.refuse_late()


@step
async def prepare_batch_snapshot(night: Night) -> Snapshot:
    """Ask the Orders API for a snapshot of the night's batch and note its id."""
    orders = await systems.orders_api()
    snapshot = await orders.prepare_daily_batch_snapshot(
        night.binding.tenant_id,
        night.binding.batch_id,
        access_token=partial(grants.access_token, night.binding, await systems.oauth_server()),
        idempotency_key=_key(night, "prepareSnapshot"),
    )
    # To the next full second: so runs that wait for the same may be told so together.
    taken_at = (clock.now() + timedelta(seconds=1)).replace(microsecond=0)
    await night.note(snapshot_id=snapshot.snapshot_id, snapshot_at=taken_at)
    return snapshot


async def replication_delay(night: Night) -> None:
    """Wait until the snapshot has reached every replica, counted from when it was taken."""
    await wait_until(night.replicated_at, name="ReplicationDelay")
    night.refuse_late()


@step
async def close_batch(night: Night) -> Closed:
    """Close the batch with the snapshot's id."""
    resumed = night.maybe_closed
    if not resumed:
        await night.note(closing_at=clock.now())
    orders = await systems.orders_api()
    return await orders.close_daily_batch(
        night.binding.tenant_id,
        night.binding.batch_id,
        night.snapshot_id,
        access_token=partial(grants.access_token, night.binding, await systems.oauth_server()),
        idempotency_key=_key(night, "close"),
        resumed=resumed,
    )


@step
async def record_batch_outcome(night: Night, outcome: LastBatch) -> None:
    """Record how the night ended: for the next run in the context, for people as an artifact."""
    missed = list(night.missed())
    await night.end(outcome)
    await history.show(night.binding, [*missed, outcome])


@step
async def scheduled_done(night: Night, outcome: LastBatch) -> None:
    """After the last night end the binding: schedule paused, grant forgotten and revoked."""
    if not await night.is_last():
        return
    await deployment.pause(night.binding)
    # A failed last night keeps its grant, so that somebody can still run it again.
    if outcome.status != "FAILED":
        await grants.revoke(await grants.delete(night.binding), await systems.oauth_server())


def _run_name() -> str:
    parameters = this_run.parameters
    night = this_run.scheduled_start_time
    return f"{parameters['tenant_id']}/{parameters['batch_id']} {night:%Y-%m-%d}"


@flow(name="daily-close", flow_run_name=_run_name, persist_result=False)
async def daily_close(
    tenant_id: Annotated[str, Field(examples=["acme"], json_schema_extra={"title": "Tenant"})],
    batch_id: Annotated[str, Field(examples=["eod"], json_schema_extra={"title": "Batch"})],
    configured: Annotated[
        DailyOrdersBatchCloseConfigRequest | None,
        Field(json_schema_extra={"title": "As configured"}),
    ] = None,
) -> State[Any]:
    """Close one night's batch of orders for one tenant.

    Runs by itself from each binding's own deployment. Started by hand, it closes the latest night
    that has come if that is not closed yet; it cannot close a night twice.

    Args:
        tenant_id: Whose batch to close, as it was configured.
        batch_id: Which of the tenant's batches to close, as it was configured.
        configured: Filled in by the configure flow. Leave it empty to use what is configured.
    """
    try:
        night = await _open_night(Binding(tenant_id, batch_id), configured)
        outcome = night.settled or await _close(night)
        await record_batch_outcome(night, outcome)
        await scheduled_done(night, outcome)
    except NightError as error:
        return Failed(message=str(error))
    except PREFECT_TROUBLE as trouble:
        await go_on_later(trouble)
        raise
    return _final_state(outcome)


async def _close(night: Night) -> LastBatch:
    """The steps of the night in their order, and how it ended."""
    try:
        # A worker looks some seconds ahead, and may begin a run before its time.
        await wait_until(night.occurrence, name="Scheduled")
        night.refuse_late()
        if not night.is_refreshed:
            await run_batch(night)
        await wait_for_upstream(night)
        if not night.snapshot_id:
            await prepare_batch_snapshot(night)
        await replication_delay(night)
        closed = await close_batch(night)
    except TooLateError as late:
        if night.maybe_closed:
            return night.ended("FAILED", reason=f"{late} {UNKNOWN}")
        return night.ended("SKIPPED", reason=str(late))
    except GrantLostError as lost:
        await _stop_schedule(night, lost)
        return night.ended("FAILED", reason=str(lost))
    except (OAuthError, OrdersError, GrantError, systems.NotSavedError) as error:
        return night.ended("FAILED", reason=str(error))
    return night.ended("CLOSED", closed_at=closed.closed_at or clock.now())


async def _stop_schedule(night: Night, lost: GrantLostError) -> None:
    """Nothing can be closed until the binding is configured again: say so, and stop trying."""
    await deployment.pause(night.binding)
    emit_event(
        event="daily-orders-batch-close.grant.lost",
        resource={
            "prefect.resource.id": f"daily-orders-batch-close.binding.{night.binding.slug}",
            "prefect.resource.name": str(night.binding),
        },
        payload={"reason": str(lost)},
    )


async def _open_night(
    binding: Binding, configured: DailyOrdersBatchCloseConfigRequest | None
) -> Night:
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run and run.state and not run.state.is_scheduled():
        clock.compare(run.state.timestamp)  # when the server had it begin, a moment ago
    planned = run.expected_start_time if run else None
    # A plain datetime, because pendulum's own class divides differently.
    start = datetime.fromisoformat(planned.isoformat()) if planned else clock.now()
    by_schedule = run is not None and run.auto_scheduled
    return await Night.open(binding, configured, started_for=start, by_schedule=by_schedule)


def _key(night: Night, operation: str) -> str:
    binding = night.binding
    return idempotency_key(binding.tenant_id, binding.batch_id, night.occurrence, operation)


def _final_state(outcome: LastBatch) -> State[Any]:
    data = outcome.model_dump(mode="json", by_alias=True, exclude_none=True)
    if outcome.status == "FAILED":
        return Failed(message=outcome.reason, data=data)
    if outcome.status == "SKIPPED":
        return Completed(name="Skipped", message=outcome.reason, data=data)
    return Completed(message=f"Closed at {outcome.closed_at:%Y-%m-%d %H:%M:%S} UTC", data=data)
