"""Runs that a dead process left behind, in a real Prefect API; the processes are only leases."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Completed, Pending, Running

from blocks.claim import Claim
from blocks.lease import Lease
from deployments import recovery
from deployments.recovery import give_back, recover
from flows.daily_close import daily_close

Begin = Callable[[], Awaitable[Claim]]

DEAD = Claim("worker", uuid4().hex)


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


@pytest.fixture
async def pool(client: PrefectClient) -> str:
    """A work pool that no other test uses."""
    name = f"pool-{uuid4().hex[:8]}"
    await client.create_work_pool(WorkPoolCreate(name=name, type="batch-close"))
    return name


@pytest.fixture
async def process(prefect_api: None) -> AsyncIterator[Begin]:
    """Begins another process, all of one worker's name; what it has is claimed by what it gives."""
    async with AsyncExitStack() as everything:

        async def begin() -> Claim:
            lease = await everything.enter_async_context(Lease("worker").kept())
            return Claim("worker", lease.process.id)

        yield begin


async def run_of(client: PrefectClient, pool: str, by: Claim, state: State[None]) -> UUID:
    deployment = await daily_close.ato_deployment(
        f"in-{pool}", work_pool_name=pool, parameters={"tenant_id": "acme", "batch_id": "eod"}
    )
    run = await client.create_flow_run_from_deployment(await deployment.aapply())
    await client.set_flow_run_state(run.id, Pending(message=str(by)))
    if not state.is_pending():
        message = state.message or str(by)
        claimed = state.model_copy(update={"message": message})
        await client.set_flow_run_state(run.id, claimed, force=True)
    return run.id


async def read(client: PrefectClient, run_id: UUID) -> FlowRun:
    return await client.read_flow_run(run_id)


def nothing(_: UUID) -> bool:
    """What a process holds that has just begun."""
    return False


@pytest.mark.parametrize("state", [Pending(), Running()], ids=["pending", "running"])
async def test_a_run_whose_process_has_no_lease_goes_on(
    client: PrefectClient, pool: str, process: Begin, state: State[None]
) -> None:
    me = await process()
    run_id = await run_of(client, pool, DEAD, state)

    await recover(client, pool, me.process, nothing)

    assert (await read(client, run_id)).state_name == "HandedOver"


async def test_a_run_of_a_living_process_is_left_alone_whatever_its_name(
    client: PrefectClient, pool: str, process: Begin
) -> None:
    me, namesake = await process(), await process()
    mine = await run_of(client, pool, me, Running())
    others = await run_of(client, pool, namesake, Running())

    assert await recover(client, pool, me.process, mine.__eq__) == []

    assert (await read(client, others)).state_name == "Running"
    assert (await read(client, mine)).state_name == "Running"


async def test_a_run_that_is_this_process_own_and_not_executed_goes_on(
    client: PrefectClient, pool: str, process: Begin
) -> None:
    me = await process()
    run_id = await run_of(client, pool, me, Running())

    await recover(client, pool, me.process, nothing)

    assert (await read(client, run_id)).state_name == "HandedOver"


async def test_a_run_that_was_cancelled_before_its_process_died_is_cancelled(
    client: PrefectClient, pool: str, process: Begin
) -> None:
    me = await process()
    cancelling: State[None] = State(type=StateType.CANCELLING, message="by an operator")
    run_id = await run_of(client, pool, DEAD, cancelling)

    await recover(client, pool, me.process, nothing)

    assert (await read(client, run_id)).state_name == "Cancelled"


async def test_a_run_that_a_living_process_is_cancelling_is_left_to_it(
    client: PrefectClient, pool: str, process: Begin
) -> None:
    me, other = await process(), await process()
    cancelling: State[None] = State(type=StateType.CANCELLING, message="by an operator")
    run_id = await run_of(client, pool, other, cancelling)

    await recover(client, pool, me.process, nothing)

    assert (await read(client, run_id)).state_name == "Cancelling"


async def test_more_runs_than_fit_into_one_page_are_all_found(
    client: PrefectClient,
    pool: str,
    process: Begin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "PAGE", 2)
    me = await process()
    runs = [await run_of(client, pool, DEAD, Running()) for _ in range(5)]

    assert {run.id for run in await recover(client, pool, me.process, nothing)} == set(runs)


async def test_a_run_that_has_ended_is_left_alone(
    client: PrefectClient, pool: str, process: Begin
) -> None:
    me = await process()
    run_id = await run_of(client, pool, DEAD, Completed())

    await recover(client, pool, me.process, nothing)

    assert (await read(client, run_id)).state_name == "Completed"


async def test_a_run_of_prefects_own_workers_is_left_to_prefect(
    client: PrefectClient, pool: str, process: Begin
) -> None:
    me = await process()
    deployment = await daily_close.ato_deployment(
        f"in-{pool}", work_pool_name=pool, parameters={"tenant_id": "acme", "batch_id": "eod"}
    )
    run = await client.create_flow_run_from_deployment(await deployment.aapply())
    await client.set_flow_run_state(run.id, Running(), force=True)

    await recover(client, pool, me.process, nothing)

    assert (await read(client, run.id)).state_name == "Running"


@pytest.mark.parametrize(
    ("meanwhile", "ends_as"), [(None, "HandedOver"), (Cancelled(), "Cancelled")]
)
async def test_a_run_is_given_back_unless_it_was_cancelled_meanwhile(
    client: PrefectClient, pool: str, meanwhile: State[None] | None, ends_as: str
) -> None:
    run_id = await run_of(client, pool, DEAD, Running())
    seen = await read(client, run_id)
    if meanwhile:
        await client.set_flow_run_state(run_id, meanwhile, force=True)

    await give_back(client, seen, "its worker was stopped")

    assert (await read(client, run_id)).state_name == ends_as


async def test_a_waiting_run_that_somebody_set_to_running_goes_on(
    client: PrefectClient, pool: str, process: Begin
) -> None:
    me = await process()
    run_id = await run_of(client, pool, me, Running(message="set by hand"))

    await recover(client, pool, me.process, nothing)

    assert (await read(client, run_id)).state_name == "HandedOver"
