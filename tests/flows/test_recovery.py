"""Runs that a dead worker left behind, in a real Prefect API; the workers are only its records."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Completed, Pending, Running, Scheduled

from blocks import clock
from deployments import recovery
from deployments.owner import Owner
from deployments.recovery import KEPT_AT_MOST, give_back, nobodys, recover
from flows.daily_close import daily_close
from flows.waiting import KEPT_BY

ME = Owner("me", "0123")
OTHER = Owner("other", "4567")


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


@pytest.fixture
async def pool(client: PrefectClient) -> str:
    """A work pool that no other test uses, in which this worker is heard of."""
    name = f"pool-{uuid4().hex[:8]}"
    await client.create_work_pool(WorkPoolCreate(name=name, type="batch-close"))
    await beat(client, name, ME)
    return name


async def beat(client: PrefectClient, pool: str, worker: Owner) -> None:
    await client.send_worker_heartbeat(pool, worker.worker, heartbeat_interval_seconds=10)


async def run_of(client: PrefectClient, pool: str, owner: Owner, state: State[None]) -> UUID:
    deployment = await daily_close.ato_deployment(
        f"in-{pool}", work_pool_name=pool, parameters={"tenant_id": "acme", "batch_id": "eod"}
    )
    run = await client.create_flow_run_from_deployment(await deployment.aapply())
    await client.set_flow_run_state(run.id, Pending(message=owner.mark))
    if not state.is_pending():
        taken = state.model_copy(update={"message": owner.mark})
        await client.set_flow_run_state(run.id, taken, force=True)
    return run.id


async def read(client: PrefectClient, run_id: UUID) -> FlowRun:
    return await client.read_flow_run(run_id)


@pytest.mark.parametrize("state", [Pending(), Running()], ids=["pending", "running"])
async def test_a_run_whose_worker_is_not_heard_of_any_more_goes_on(
    client: PrefectClient, pool: str, state: State[None]
) -> None:
    run_id = await run_of(client, pool, OTHER, state)

    await recover(client, pool, ME, executing=())

    assert (await read(client, run_id)).state_name == "HandedOver"


async def test_a_run_of_this_worker_from_before_its_restart_goes_on(
    client: PrefectClient, pool: str
) -> None:
    run_id = await run_of(client, pool, Owner(ME.worker, "before"), Running())

    await recover(client, pool, ME, executing=())

    assert (await read(client, run_id)).state_name == "HandedOver"


async def test_a_run_that_a_living_worker_executes_is_left_alone(
    client: PrefectClient, pool: str
) -> None:
    await beat(client, pool, OTHER)
    others = await run_of(client, pool, OTHER, Running())
    mine = await run_of(client, pool, ME, Running())

    assert await recover(client, pool, ME, executing=[mine]) == []

    assert (await read(client, others)).state_name == "Running"
    assert (await read(client, mine)).state_name == "Running"


async def test_a_worker_that_has_been_silent_for_too_long_is_taken_for_dead(
    client: PrefectClient, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await beat(client, pool, OTHER)
    run_id = await run_of(client, pool, OTHER, Running())
    await beat(client, pool, ME)
    monkeypatch.setattr(recovery, "SILENT_FOR", recovery.SILENT_FOR * 0)

    await recover(client, pool, ME, executing=())

    assert (await read(client, run_id)).state_name == "HandedOver"


async def test_a_run_that_has_ended_is_left_alone(client: PrefectClient, pool: str) -> None:
    run_id = await run_of(client, pool, OTHER, Completed())

    await recover(client, pool, ME, executing=())

    assert (await read(client, run_id)).state_name == "Completed"


def waiting(keeper: Owner | None, *, overdue: timedelta = timedelta(seconds=1)) -> FlowRun:
    """A run that waits, kept by somebody, as a worker finds it."""
    moment = clock.now() - overdue
    message = f"until then{KEPT_BY}{keeper}" if keeper else "until then"
    state: State[None] = Scheduled(scheduled_time=moment, message=message)
    return FlowRun(flow_id=uuid4(), state=state, next_scheduled_start_time=moment)


async def test_runs_that_a_living_worker_keeps_are_left_to_it(
    client: PrefectClient, pool: str
) -> None:
    await beat(client, pool, OTHER)
    kept, free = waiting(OTHER), waiting(None)

    assert await nobodys(client, pool, ME, [kept, free]) == [free]


async def polled_while_it_waits(client: PrefectClient, pool: str, keeper: Owner) -> FlowRun:
    run_id = await run_of(client, pool, keeper, Running())
    message = f"until then{KEPT_BY}{keeper}"
    waits: State[None] = Scheduled(scheduled_time=clock.now(), message=message)
    await client.set_flow_run_state(run_id, waits)
    (found,) = await client.get_scheduled_flow_runs_for_work_pool(
        pool, scheduled_before=clock.now() + timedelta(seconds=10)
    )
    return found.flow_run


async def test_a_run_that_a_poll_tells_of_is_left_to_its_living_keeper(
    client: PrefectClient, pool: str
) -> None:
    await beat(client, pool, OTHER)
    run = await polled_while_it_waits(client, pool, OTHER)
    assert await nobodys(client, pool, ME, [run]) == []


async def test_a_run_that_a_poll_tells_of_comes_with_its_keeper(
    client: PrefectClient, pool: str
) -> None:
    run = await polled_while_it_waits(client, pool, ME)
    (found,) = await nobodys(client, pool, ME, [run])
    assert Owner.keeping(found) == ME


@pytest.mark.parametrize(
    ("keeper", "overdue"),
    [
        (Owner("never heard of", "89"), timedelta(seconds=1)),
        (Owner(ME.worker, "before"), timedelta(seconds=1)),
        (OTHER, KEPT_AT_MOST),
    ],
    ids=["it is dead", "it was this one before its restart", "it has let it lie for too long"],
)
async def test_runs_that_their_worker_will_not_wake_are_found_by_another(
    client: PrefectClient, pool: str, keeper: Owner, overdue: timedelta
) -> None:
    await beat(client, pool, OTHER)
    run = waiting(keeper, overdue=overdue)

    assert await nobodys(client, pool, ME, [run]) == [run]


@pytest.mark.parametrize(
    ("meanwhile", "ends_as"), [(None, "HandedOver"), (Cancelled(), "Cancelled")]
)
async def test_a_run_that_was_only_woken_is_given_back_unless_it_was_cancelled(
    client: PrefectClient, pool: str, meanwhile: State[None] | None, ends_as: str
) -> None:
    run_id = await run_of(client, pool, ME, Scheduled(name="WaitForUpstream"))
    woken = await read(client, run_id)
    if meanwhile:
        await client.set_flow_run_state(run_id, meanwhile, force=True)

    await give_back(client, woken, "its worker was stopped")

    assert (await read(client, run_id)).state_name == ends_as
