"""The daily close flow: one night of one binding, from the refresh to the recorded outcome.

The flow's body may run from its first line again after a wait, and does so after a crash. Each step
therefore either finds its work noted in the binding's context and is passed over, or repeats a
request that its receiver recognises by the idempotency key.
"""

from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any

from anyio import CancelScope
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run as this_run
from prefect.states import Failed
from pydantic import Field, SecretStr

from blocks import clock, ownership, systems
from blocks import grant as grants
from blocks.binding import Binding
from blocks.grant import GrantError
from blocks.oauth import GrantLostError, OAuthError
from blocks.orders import Closed, OrdersError, Snapshot, idempotency_key
from blocks.outcome import LastBatch, final_state
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.ending import end_unopened, not_recorded, stop_schedule, unexpected
from flows.keeping import note, record
from flows.last_night import end_if_last
from flows.night import DeletedError, Night, OldScheduleError, TooLateError
from flows.opening import SettledError, open_night, read_again
from flows.requests import NightError, UnreadableRequestError
from flows.step import step
from flows.unopened import record_cancelled, record_failed
from flows.waiting import PREFECT_TROUBLE, WAIT_FOR_UPSTREAM, go_on_later, wait_until


@step
async def run_batch(night: Night) -> None:
    """Enter the night: refresh the grant. What comes back is stored before anything is done."""
    server = await systems.oauth_server()
    grant = await grants.refresh(
        night.binding,
        server,
        unless=night.is_refreshed_by,
        after_queue=partial(_wait_while_stopped, night, surely=True),
    )
    night.is_refreshed = True
    get_run_logger().info("Refreshed; the access token lives until %s", grant.expires_at)


async def wait_for_upstream(night: Night) -> None:
    """Wait until upstream systems are done, counted from the scheduled start."""
    await _wait(night, night.upstream_done_at, name=WAIT_FOR_UPSTREAM)
    night.refuse_late()


@step
async def prepare_batch_snapshot(night: Night) -> Snapshot:
    """Ask the Orders API for a snapshot of the night's batch and note its id."""
    orders = await systems.orders_api()
    snapshot = await orders.prepare_daily_batch_snapshot(
        night.binding.tenant_id,
        night.binding.batch_id,
        access_token=partial(_access_token, night),
        idempotency_key=_key(night, "prepareSnapshot"),
    )
    # To the next full second: so runs that wait for the same may be told so together.
    taken_at = (clock.now() + timedelta(seconds=1)).replace(microsecond=0)
    await note(night, snapshot_id=snapshot.snapshot_id, snapshot_at=taken_at)
    return snapshot


async def replication_delay(night: Night) -> bool:
    """Wait until the snapshot has reached every replica, counted from when it was taken.

    Returns whether it is still noted: that may have gone while the run waited.
    """
    await _wait(night, night.replicated_at, name="ReplicationDelay")
    night.refuse_late()
    return bool(night.snapshot_id)


@step
async def close_batch(night: Night) -> Closed:
    """Close the batch with the snapshot's id."""
    resumed = night.maybe_closed
    if not resumed:
        await ownership.require()  # or a run that was cancelled would seem to have sent it
        before = await note(night, closing_at=clock.now())
        resumed = before.closing_at is not None  # by another run of this night, meanwhile
    orders = await systems.orders_api()
    return await orders.close_daily_batch(
        night.binding.tenant_id,
        night.binding.batch_id,
        night.snapshot_id,
        access_token=partial(_access_token, night),
        idempotency_key=_key(night, "close"),
        resumed=resumed,
    )


@step
async def record_batch_outcome(night: Night, outcome: LastBatch) -> LastBatch:
    """Record how the night ended: for the next run in the context, for people as an artifact.

    Returns what counts: if another run has closed the night meanwhile, that.
    """
    return await record(night, outcome)


@step
async def scheduled_done(night: Night, outcome: LastBatch) -> None:
    """After the last night end the binding: schedule paused, grant forgotten and revoked."""
    if night.may_be_last:
        await end_if_last(night.binding, outcome)


def _run_name() -> str:
    parameters = this_run.parameters
    night = this_run.scheduled_start_time
    return f"{parameters['tenant_id']}/{parameters['batch_id']} {night:%Y-%m-%d}"


@flow(
    name="daily-close",
    flow_run_name=_run_name,
    persist_result=False,
    validate_parameters=False,  # or what somebody made unreadable would end without an outcome
    on_cancellation=[record_cancelled],
    on_failure=[record_failed],
)
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
    binding = Binding(tenant_id, batch_id)
    try:
        outcome = await _pass_night(binding, configured)
    except NightError as error:
        return Failed(message=str(error))
    except PREFECT_TROUBLE as trouble:
        await go_on_later(trouble)
        raise
    return final_state(outcome)


async def _pass_night(binding: Binding, configured: object) -> LastBatch:
    """The night from its beginning to its recorded outcome, whichever that is."""
    try:
        night = await open_night(binding, configured)
    except UnreadableRequestError as error:
        return await end_unopened(error, str(error))
    except (NightError, *PREFECT_TROUBLE):
        raise
    except Exception as error:  # noqa: BLE001  (no night ends without an outcome)
        return await end_unopened(error, unexpected(error))
    try:
        outcome = night.settled or await _close(night)
    except OldScheduleError as error:  # no night: nothing is recorded
        return night.ended("SKIPPED", reason=str(error))
    return await _end(night, outcome)


async def _close(night: Night) -> LastBatch:
    """The steps of the night in their order, and how it ended."""
    try:
        # A worker looks some seconds ahead, and may begin a run before its time.
        await _wait(night, night.occurrence, name="WaitForStart")
        await _wait_while_stopped(night)
        night.refuse_late()
        if not night.is_refreshed:
            await run_batch(night)
        await wait_for_upstream(night)
        is_replicated = False
        while not is_replicated:
            if not night.snapshot_id:
                await prepare_batch_snapshot(night)
            is_replicated = await replication_delay(night)
        await _wait_while_stopped(night, surely=True)
        closed = await close_batch(night)
    except (TooLateError, DeletedError) as stopped:
        return night.ended("SKIPPED", reason=str(stopped))
    except SettledError as settled:
        return settled.outcome
    except GrantLostError as lost:
        night.grant_lost = str(lost)
        return night.ended("FAILED", reason=str(lost))
    except (OAuthError, OrdersError, GrantError, systems.NotSavedError) as error:
        return night.ended("FAILED", reason=str(error))
    except (OldScheduleError, *PREFECT_TROUBLE):
        raise
    except Exception as error:  # noqa: BLE001  (no night ends without an outcome)
        return night.ended("FAILED", reason=unexpected(error))
    return night.ended("CLOSED", closed_at=closed.closed_at or clock.now())


async def _wait(night: Night, moment: datetime, *, name: str) -> None:
    """Wait; afterwards what is stored counts, and not what this run remembers."""
    if await wait_until(moment, name=name):
        await read_again(night)


async def _wait_while_stopped(night: Night, *, surely: bool = False) -> None:
    """Send nothing while somebody has stopped the night; go on if that ends in time."""
    while stop := await night.stopped_by(surely=surely):
        night.refuse_late(stop.because)
        await wait_until(night.look_again_at(), name=stop.state, in_memory=False)


async def _access_token(night: Night, *, rejected: SecretStr | None = None) -> SecretStr:
    """Asked for before each request to the Orders API: none leaves once somebody stopped it."""
    await _wait_while_stopped(night, surely=True)
    server = await systems.oauth_server()
    return await grants.access_token(
        night.binding,
        server,
        rejected=rejected,
        after_queue=partial(_wait_while_stopped, night, surely=True),
    )


async def _end(night: Night, outcome: LastBatch) -> LastBatch:
    """Record the outcome and what follows from it; what happened outside stays what it is."""
    try:
        # Whoever cancels the run now comes too late: what was answered is written down first.
        with CancelScope(shield=outcome.ok):
            outcome = await record_batch_outcome(night, outcome)
        if night.grant_lost:
            await stop_schedule(night, night.grant_lost)
        await scheduled_done(night, outcome)
    except PREFECT_TROUBLE as trouble:
        await go_on_later(trouble)  # returns only where no worker would begin the run again
        not_recorded(trouble)
    except Exception as error:  # noqa: BLE001  (the night is over, and how it ended is known)
        not_recorded(error)
    return outcome


def _key(night: Night, operation: str) -> str:
    binding = night.binding
    return idempotency_key(binding.tenant_id, binding.batch_id, night.occurrence, operation)
