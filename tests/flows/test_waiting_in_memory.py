"""How a run waits that our worker executes: in its memory, in a state that says so."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelling, Pending

from blocks import context as contexts
from blocks import ownership
from blocks.claim import Claim
from blocks.context import Context
from blocks.lease import Lease
from blocks.ownership import Work
from blocks.places import Places
from deployments.engine import execute
from flows import waiting
from flows.daily_close import daily_close
from tests.flows.batch import Batch

UPSTREAM = timedelta(seconds=40)
REPLICATION = timedelta(seconds=30)
WAITS = {"upstream_wait_duration": "PT40S", "replication_delay_duration": "PT30S"}


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


@pytest.fixture
def places() -> Places:
    return Places(1)


class Waiting:
    """A run that a worker executes at its one place."""

    def __init__(self, run: FlowRun, client: PrefectClient, task: asyncio.Task[None]) -> None:
        self.id, self._client, self._task = run.id, client, task

    async def read(self) -> FlowRun:
        """The run as Prefect has it."""
        return await self._client.read_flow_run(self.id)

    async def reach(self, state: str) -> FlowRun:
        """Wait until it is in the state of this name."""
        async with asyncio.timeout(20):
            while (run := await self.read()).state_name != state:
                assert not self._task.done(), (run.state_name, run.state and run.state.message)
                await asyncio.sleep(0.05)
        return run

    async def end(self) -> FlowRun:
        """Wait until the worker has done with it."""
        async with asyncio.timeout(20):
            await self._task
        return await self.read()


@pytest.fixture
async def begin(
    batch: Batch, client: PrefectClient, places: Places, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Awaitable[Waiting]]]:
    """Configure the batch with waits and have a worker begin its first night."""
    monkeypatch.setattr(waiting, "LOOK_AT_CLOCK_SECONDS", 0.05)  # the tests set it
    tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def worker() -> AsyncIterator[Lease]:
        async with Lease("worker").kept() as lease:
            yield lease
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def carry_out(run: FlowRun, lease: Lease) -> None:
        tenant = str(run.parameters["tenant_id"])
        with ownership.working(Work(lease, run.id)):
            async with places.one(tenant):
                await execute(daily_close, run, client)

    async with worker() as lease:

        async def begin() -> Waiting:
            await batch.configure_past(**WAITS)
            run = await batch.night(1)
            batch.clock.move_to(run.expected_start_time + timedelta(seconds=1))
            claimed = Pending(name="Resuming", message=str(Claim("worker", lease.process.id)))
            run.state = claimed
            await client.set_flow_run_state(run.id, claimed, force=True)
            tasks.append(asyncio.create_task(carry_out(run, lease)))
            return Waiting(run, client, tasks[-1])

        yield begin


async def waits_for_replication(night: Waiting, batch: Batch) -> Waiting:
    """The same run, once it has taken its snapshot and waits again."""
    run = await night.reach("WaitForUpstream")
    batch.clock.move_to(run.expected_start_time + UPSTREAM)
    await night.reach("ReplicationDelay")
    return night


async def test_a_run_waits_in_a_state_that_says_what_for_whose_it_is_and_until_when(
    begin: Callable[[], Awaitable[Waiting]], batch: Batch
) -> None:
    run = await (await begin()).reach("WaitForUpstream")

    assert run.state.type == "RUNNING"
    assert Claim.in_message(run.state.message)
    assert f"{run.expected_start_time + UPSTREAM:%F %T} UTC" in run.state.message
    assert not batch.requests("orders.prepareSnapshot")


async def test_a_run_that_waits_leaves_its_place_to_others_and_gets_one_again(
    begin: Callable[[], Awaitable[Waiting]], batch: Batch, places: Places
) -> None:
    night = await begin()
    run = await night.reach("WaitForUpstream")
    async with asyncio.timeout(5), places.one("another"):
        batch.clock.move_to(run.expected_start_time + UPSTREAM)
        await asyncio.sleep(0.5)
        assert not batch.requests("orders.prepareSnapshot")

    await night.reach("ReplicationDelay")

    assert places.left == 1


async def test_a_run_goes_on_after_each_wait_and_ends_closed(
    begin: Callable[[], Awaitable[Waiting]], batch: Batch
) -> None:
    night = await waits_for_replication(await begin(), batch)
    batch.clock.move_to(batch.clock() + REPLICATION)

    run = await night.end()

    assert run.state.is_completed(), run.state.message
    assert len(batch.requests("token.refresh")) == len(batch.closes()) == 1
    assert len(batch.requests("orders.prepareSnapshot")) == 1
    assert (await batch.context()).last_batch.status == "CLOSED"


async def test_a_night_closed_by_hand_while_its_run_waits_is_closed_once(
    begin: Callable[[], Awaitable[Waiting]], batch: Batch
) -> None:
    night = await begin()
    run = await night.reach("WaitForUpstream")
    batch.clock.move_to(run.expected_start_time + UPSTREAM - timedelta(seconds=3))
    by_hand = asyncio.create_task(batch.run_by_hand())
    await night.reach("ReplicationDelay")
    batch.clock.move_to(batch.clock() + REPLICATION)
    assert (await by_hand).is_completed()

    assert (await night.end()).state.is_completed()

    assert len(batch.closes()) == 1


async def test_a_run_that_is_cancelled_while_it_waits_asks_nothing_more(
    begin: Callable[[], Awaitable[Waiting]], batch: Batch, client: PrefectClient
) -> None:
    night = await begin()
    run = await night.reach("WaitForUpstream")
    await client.set_flow_run_state(run.id, Cancelling(), force=True)
    batch.clock.move_to(run.expected_start_time + UPSTREAM)

    run = await night.end()

    assert run.state_name == "Cancelling"  # its worker ends it
    assert not batch.requests("orders.prepareSnapshot")


async def test_a_snapshot_of_which_nothing_is_noted_any_more_after_the_wait_is_asked_for_again(
    begin: Callable[[], Awaitable[Waiting]], batch: Batch
) -> None:
    night = await waits_for_replication(await begin(), batch)
    await contexts.store(batch.binding, Context())
    batch.clock.move_to(batch.clock() + REPLICATION)
    async with asyncio.timeout(20):
        while len(batch.requests("orders.prepareSnapshot")) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await night.reach("ReplicationDelay")
    batch.clock.move_to(batch.clock() + REPLICATION)

    assert (await night.end()).state.is_completed()

    assert [close.snapshot_id for close in batch.closes()] != [""]
    assert len(batch.closes()) == 1


async def test_a_run_that_is_suspended_while_it_waits_records_nothing_however_late_it_wakes(
    begin: Callable[[], Awaitable[Waiting]], batch: Batch, client: PrefectClient
) -> None:
    night = await begin()
    run = await night.reach("WaitForUpstream")
    suspended = State(type=StateType.PAUSED, name="Suspended")
    await client.set_flow_run_state(run.id, suspended, force=True)
    batch.clock.move_to(run.expected_start_time + timedelta(days=2))

    run = await night.end()

    assert run.state_name == "Suspended"
    assert (await batch.context()).last_batch is None


async def test_a_wait_of_more_than_an_hour_ends_the_run_until_then(
    begin: Callable[[], Awaitable[Waiting]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "KEPT_AT_MOST", UPSTREAM / 2)

    run = await (await begin()).end()

    assert (run.state.type, run.state.name) == ("SCHEDULED", "WaitForUpstream")
