"""What several do to one binding at once: none of them undoes what another has done."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import anyio
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Paused, Pending, Running

from blocks import context as contexts
from blocks import deployment, history, ownership
from blocks import grant as grants
from blocks.context import Context, Progress
from blocks.history import History
from blocks.lease import Lease, OwnershipLostError
from blocks.lock import only_holder
from blocks.orders import OrdersApi
from blocks.outcome import LastBatch
from blocks.ownership import Work
from deployments import batches
from deployments.engine import end_cancelled
from flows import daily_close as the_flow
from flows import keeping
from flows.daily_close import daily_close
from flows.recurrence import schedule_of
from flows.requests import configured_now
from tests.flows.batch import Batch

DAY = timedelta(days=1)


def after(done: Callable[..., Awaitable[Any]], then: Callable[[], Awaitable[None]]) -> Any:
    """The function, and what somebody else does right after it."""

    async def both(*args: Any, **kwargs: Any) -> Any:
        result = await done(*args, **kwargs)
        await then()
        return result

    return both


@asynccontextmanager
async def being_configured(batch: Batch) -> AsyncIterator[None]:
    """Somebody's configuration of the binding is under way."""
    async with only_holder(f"configure-{batch.binding.slug}"):
        yield


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Return once it is so."""
    async with asyncio.timeout(20):
        while not await is_so():  # noqa: ASYNC110  (it is so in Prefect, not in this process)
            await asyncio.sleep(0.1)


# What is stored of the nights


async def test_whoever_writes_what_is_stored_takes_the_lock(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past()
    taken: list[str] = []
    take = keeping.only_holder

    def noted(name: str, **how: Any) -> AbstractAsyncContextManager[None]:
        taken.append(name)
        return take(name, **how)

    monkeypatch.setattr(keeping, "only_holder", noted)

    assert (await batch.run_night()).state.is_completed()

    assert taken == 3 * [f"lock-{batch.binding.slug}"]  # the snapshot, the close, the outcome


@pytest.mark.parametrize("request_", ["prepare_daily_batch_snapshot", "close_daily_batch"])
async def test_what_others_store_while_a_night_is_asked_for_outlasts_it(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, request_: str
) -> None:
    await batch.configure_past()
    run = await batch.night(1)
    other = Progress(occurrence=run.expected_start_time + DAY, snapshot_id="s-2")

    async def somebody_stores() -> None:
        async with keeping.only_writer_of(batch.binding) as stored:
            nights = (*stored.nights, other)
            changed = stored.model_copy(update={"ended_at": batch.clock(), "nights": nights})
            await contexts.store(batch.binding, changed)

    asked = getattr(OrdersApi, request_)
    monkeypatch.setattr(OrdersApi, request_, after(asked, somebody_stores))

    assert (await batch.wake(run)).state.is_completed()

    stored = await batch.context()
    assert stored.ended_at
    assert stored.nights == (other,)
    assert stored.last_batch.status == "CLOSED"


async def test_a_close_of_which_another_run_was_about_to_send_is_sent_as_a_repetition(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past()
    told: list[bool] = []
    close = OrdersApi.close_daily_batch
    snapshot = OrdersApi.prepare_daily_batch_snapshot
    binding, occurrence = batch.binding, (await batch.night(1)).expected_start_time

    async def another_is_about_to_close() -> None:
        begun = Progress(occurrence=occurrence, snapshot_id="s-1", closing_at=batch.clock())
        await contexts.store(binding, Context(nights=(begun,)))

    async def note(self: OrdersApi, *args: Any, resumed: bool, **named: Any) -> Any:
        told.append(resumed)
        return await close(self, *args, resumed=resumed, **named)

    monkeypatch.setattr(
        OrdersApi, "prepare_daily_batch_snapshot", after(snapshot, another_is_about_to_close)
    )
    monkeypatch.setattr(OrdersApi, "close_daily_batch", note)

    assert (await batch.run_night()).state.is_completed()
    assert told == [True]


# A configuration that comes while a night ends


async def test_a_last_night_leaves_alone_what_is_being_configured_as_it_ends(batch: Batch) -> None:
    await batch.configure_past(max_runs=1)
    found = await batch.deployment()
    assert found is not None
    longer = found.parameters["configured"] | {"maxRuns": 9}

    async with being_configured(batch):
        night = asyncio.create_task(batch.run_night())
        await until(lambda: _is_recorded(batch))
        await asyncio.sleep(1)
        assert not await batch.is_paused()
        update = DeploymentUpdate(parameters=found.parameters | {"configured": longer})
        async with get_client() as client:
            await client.update_deployment(found.id, update)

    assert (await night).state.is_completed()
    assert not await batch.is_paused()
    assert await batch.grant()


async def test_a_grant_that_was_lost_does_not_stop_what_is_configured_with_a_new_one(
    batch: Batch,
) -> None:
    await batch.configure_past()
    whole = await batch.grant()
    assert whole is not None
    batch.sandbox.fault("token.refresh", "reset_after", tenant_id=batch.binding.tenant_id)

    async with being_configured(batch):
        night = asyncio.create_task(batch.run_night())
        await until(lambda: _is_recorded(batch))
        await asyncio.sleep(1)
        assert not await batch.is_paused()
        await grants.store(batch.binding, whole)

    assert (await night).state.is_failed()
    assert not await batch.is_paused()


async def _is_recorded(batch: Batch) -> bool:
    return (await batch.context()).last_batch is not None


# Cancelled at the wrong moment


async def test_a_close_that_was_answered_is_recorded_though_its_run_is_cancelled_then(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past()
    run = await batch.night(1)
    scope = anyio.CancelScope()
    record = the_flow.record

    async def cancelled(*args: Any) -> Any:
        scope.cancel()
        return await record(*args)

    monkeypatch.setattr(the_flow, "record", cancelled)
    with scope:
        await batch.wake(run)
    assert scope.cancelled_caught
    async with get_client() as client:
        await end_cancelled(daily_close, run, client)  # as the worker does

    assert (await batch.context()).last_batch.status == "CLOSED"
    assert await batch.history() == {1: "CLOSED"}


async def test_a_second_run_that_is_cancelled_says_nothing_while_the_first_goes_on(
    batch: Batch,
) -> None:
    await batch.configure_past(upstream_wait_duration="PT70S")
    waiting = await batch.run_night()
    assert waiting.state_name == "WaitForUpstream"
    begun = Progress(occurrence=waiting.expected_start_time, snapshot_id="s-1")
    await contexts.store(batch.binding, Context(nights=(begun,)))
    by_hand = await _started_by_hand(batch)

    async with get_client() as client:
        await end_cancelled(daily_close, by_hand, client)

    stored = await batch.context()
    assert (stored.last_batch, stored.nights) == (None, (begun,))
    async with get_client() as client:
        await end_cancelled(daily_close, waiting, client)
    assert await batch.history() == {1: "SKIPPED"}


async def test_a_night_that_was_said_to_be_skipped_minds_that_its_schedule_is_off(
    batch: Batch,
) -> None:
    await batch.configure_past(upstream_wait_duration="PT70S")
    waiting = await batch.run_night()
    skipped = LastBatch(
        batch_id="eod", occurrence=waiting.expected_start_time, status="SKIPPED", reason="?"
    )
    await contexts.store(batch.binding, Context(last_batch=skipped))
    await deployment.pause(batch.binding)
    batch.clock.ahead = timedelta(minutes=2)

    assert (await batch.wake(waiting)).state_name == "ScheduleOff"


async def _started_by_hand(batch: Batch) -> FlowRun:
    found = await batch.deployment()
    assert found is not None
    async with get_client() as client:
        return await client.create_flow_run_from_deployment(found.id, state=Running())


# A binding that is ended


@pytest.mark.parametrize(
    "state", [Pending(), Running(), Paused(timeout_seconds=600)], ids=lambda state: state.type.value
)
async def test_a_run_that_has_begun_when_its_binding_is_ended_goes_on_no_more(
    batch: Batch, state: Any
) -> None:
    await batch.configure_past()
    run = await batch.night(1)
    async with get_client() as client:
        await client.set_flow_run_state(run.id, state, force=True)

    await batches.end(batch.binding)

    async with get_client() as client:
        ended = (await client.read_flow_run(run.id)).state
    assert ended is not None
    assert (ended.type, ended.message) == (StateType.CANCELLED, "The binding was ended.")
    assert await batch.history() == {1: "SKIPPED"}


async def test_a_run_that_executes_while_its_binding_is_ended_closes_nothing(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure_past()
    snapshot = OrdersApi.prepare_daily_batch_snapshot

    async def somebody_ends_it() -> None:
        await batches.end(batch.binding)

    monkeypatch.setattr(
        OrdersApi, "prepare_daily_batch_snapshot", after(snapshot, somebody_ends_it)
    )

    with suppress(OwnershipLostError):  # as the worker does
        await batch.run_night()
    assert not batch.requests("orders.close")
    assert await batch.history() == {1: "SKIPPED"}


# Whose process was given up


async def test_who_was_given_up_changes_nothing_that_is_stored(batch: Batch) -> None:
    await batch.configure_past()
    outcome = LastBatch(batch_id="eod", occurrence=batch.clock(), status="CLOSED")
    configured = await configured_now(batch.binding)
    before = await batch.deployment()
    async with Lease("worker").kept() as lease:
        lease.lost.set()
        with ownership.working(Work(lease)):
            for change in (
                lambda: contexts.store(batch.binding, Context(last_batch=outcome, is_new=True)),
                lambda: history.write(batch.binding, History({}), [outcome]),
                lambda: deployment.pause(batch.binding),
                lambda: deployment.upsert(
                    batch.binding, schedule_of(configured.recurrence), {}, first=batch.clock()
                ),
            ):
                with pytest.raises(OwnershipLostError):
                    await change()

    assert await batch.context() == Context(is_new=True)
    assert await batch.deployment() == before
