"""Who goes on with what, and what stops: processes that freeze, share a name, or are told to."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleUpdate, WorkPoolUpdate
from prefect.client.schemas.objects import State, StateType

from blocks.claim import Claim
from deployments import batches, journeys
from deployments.sandbox.client import SandboxClient
from deployments.stack import WORK_POOL, Part, Stack
from tests.end_to_end.conftest import LEASE_SECONDS
from tests.end_to_end.nights import (
    PATIENCE,
    Nights,
    due_together,
    in_seconds,
    paused,
    until,
    waits_until,
)

NAME = "namesake"

SLOW = 8.0
"""Seconds that a refresh takes: within the patience of the OAuth Server block."""


@pytest.fixture
async def client(installation: Stack) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


@pytest.fixture
def start_namesake(installation: Stack) -> Iterator[Callable[[], Part]]:
    started: list[Part] = []

    def start() -> Part:
        started.append(installation.start_worker(NAME))
        return started[-1]

    yield start
    for part in started:
        part.stop()


async def claims_of(client: PrefectClient, nights: Nights) -> list[Claim]:
    """By which processes the one night's run was claimed, one after the other."""
    (run,) = await nights.runs()
    states = await client.read_flow_run_states(run.id)
    claims = [Claim.in_message(state.message) for state in states]
    return [claim for claim in claims if claim]


def requests(nights: Nights) -> list[str]:
    """What was asked for the tenant, after it was configured."""
    tenant, events = nights.binding.tenant_id, nights.sandbox.events()
    kinds = [event.kind for event in events if event.tenant_id == tenant]
    return [kind for kind in kinds if kind != "token.exchange"]


async def test_two_workers_of_one_name_share_the_nights_like_any_two(
    start_namesake: Callable[[], Part], sandbox: SandboxClient, client: PrefectClient
) -> None:
    everyone = [Nights(sandbox) for _ in range(6)]
    for nights in everyone:
        tenant = nights.binding.tenant_id
        sandbox.fault("token.refresh", "slow", tenant_id=tenant, seconds=SLOW)
    workers = [start_namesake(), start_namesake()]
    await due_together(everyone, upstream_wait=2 * LEASE_SECONDS, replication_delay=2)

    for nights in everyone:
        await nights.reach("Completed")

    assert [len(nights.closes()) for nights in everyone] == [1] * len(everyone)
    assert [nights.refreshes() for nights in everyone] == [1] * len(everyone)
    assert "does not live" not in "".join(worker.log.read_text() for worker in workers)


async def test_a_frozen_worker_is_taken_over_from_and_sends_nothing_when_it_wakes(
    start_worker: Callable[..., Part], nights: Nights, client: PrefectClient
) -> None:
    frozen = start_worker()
    tenant = nights.binding.tenant_id
    nights.sandbox.fault("orders.prepareSnapshot", "slow", tenant_id=tenant, seconds=6)
    await due_together([nights], upstream_wait=10, replication_delay=2)
    over = waits_until((await nights.reach("WaitForUpstream")).state)
    await until("the snapshot to be asked for", lambda: in_seconds(-2) > over)

    os.killpg(frozen.process.pid, signal.SIGSTOP)
    other = start_worker()
    await nights.reach("Completed")
    lease = f"batch_close_lease-{(await claims_of(client, nights))[0].process}"
    async with asyncio.timeout(PATIENCE):
        while await client.read_variable_by_name(lease):  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.5)
    os.killpg(frozen.process.pid, signal.SIGCONT)
    await until("it notices", lambda: "for dead" in frozen.log.read_text())
    other.stop()

    assert len(nights.closes()) == nights.refreshes() == 1
    again = Nights(nights.sandbox)  # it goes on, as another process
    await due_together([again])
    await again.reach("Completed")


async def test_a_worker_that_was_frozen_alone_goes_on_with_what_it_had(
    worker: Part, nights: Nights
) -> None:
    await due_together([nights], upstream_wait=2 * LEASE_SECONDS, replication_delay=2)
    await nights.reach("WaitForUpstream")

    os.killpg(worker.process.pid, signal.SIGSTOP)
    await asyncio.sleep(1.5 * LEASE_SECONDS)
    os.killpg(worker.process.pid, signal.SIGCONT)

    await nights.reach("Completed")
    assert len(nights.closes()) == nights.refreshes() == 1
    assert "for dead" not in worker.log.read_text()


@pytest.mark.parametrize("wait", ["WaitForUpstream", "ReplicationDelay"])
async def test_while_the_work_pool_is_paused_nothing_is_sent(
    worker: Part, nights: Nights, client: PrefectClient, wait: str
) -> None:
    await due_together([nights], upstream_wait=10, replication_delay=6)
    run = await nights.reach(wait)
    async with paused(client):
        before = requests(nights)
        over = waits_until(run.state)
        await until("the wait to be over", lambda: in_seconds(-5) > over)
        assert requests(nights) == before
        (run,) = await nights.runs()
        assert run.state_name == "WorkPoolPaused"

    await nights.reach("Completed")
    assert len(nights.closes()) == 1


async def switch(client: PrefectClient, nights: Nights, *, on: bool) -> None:
    """The switch of the binding's schedule in Prefect's UI."""
    found = await nights.deployment()
    (schedule,) = found.schedules
    await client.request(
        "PATCH",
        "/deployments/{id}/schedules/{schedule_id}",
        path_params={"id": found.id, "schedule_id": schedule.id},
        json=DeploymentScheduleUpdate(active=on).model_dump(mode="json", exclude_unset=True),
    )


async def test_while_the_schedule_is_switched_off_nothing_is_sent_and_everything_says_so(
    worker: Part, nights: Nights, client: PrefectClient
) -> None:
    await due_together([nights], upstream_wait=10, replication_delay=2, maxRuns=3)
    await nights.reach("WaitForUpstream")
    await switch(client, nights, on=False)

    await nights.reach("ScheduleOff")
    shown = await batches.describe(nights.binding)
    assert (shown.schedule.active, shown.next_occurrence) == (False, None)
    assert requests(nights) == ["token.refresh"]

    await switch(client, nights, on=True)
    assert (await batches.describe(nights.binding)).schedule.active
    await nights.reach("Completed")
    assert len(nights.closes()) == 1


async def pause_pool(client: PrefectClient, _: Nights, *, on: bool) -> None:
    await client.update_work_pool(WORK_POOL, WorkPoolUpdate(is_paused=not on))


async def pause_queue(client: PrefectClient, _: Nights, *, on: bool) -> None:
    queue = await client.read_work_queue_by_name("default", work_pool_name=WORK_POOL)
    await client.update_work_queue(queue.id, is_paused=not on)


async def pause_deployment(client: PrefectClient, nights: Nights, *, on: bool) -> None:
    found = await nights.deployment()
    await (client.resume_deployment if on else client.pause_deployment)(found.id)


@pytest.mark.parametrize("stop", [pause_pool, pause_queue, pause_deployment, switch])
async def test_what_is_stopped_while_a_run_tries_again_sends_nothing_until_it_goes_on(
    worker: Part, nights: Nights, client: PrefectClient, stop: Callable[..., Awaitable[None]]
) -> None:
    again = {"status": 503, "headers": {"Retry-After": "3"}, "count": 2}
    nights.sandbox.fault("orders.close", "status", tenant_id=nights.binding.tenant_id, **again)
    await due_together([nights], maxRuns=3)
    await until("the first attempt", lambda: "orders.close" in requests(nights))
    await stop(client, nights, on=False)
    try:
        before = requests(nights)
        described = await batches.describe(nights.binding)
        assert not described.schedule.active
        assert " in Prefect." in described.schedule.paused_because
        waits = "WorkPoolPaused" if stop in {pause_pool, pause_queue} else "ScheduleOff"
        await nights.reach(waits)
        assert requests(nights) == before
    finally:
        await stop(client, nights, on=True)

    await nights.reach("Completed")
    assert len(nights.closes()) == 1


async def test_a_batch_that_is_ended_while_a_run_tries_again_is_not_closed_any_more(
    worker: Part, nights: Nights
) -> None:
    again = {"status": 503, "headers": {"Retry-After": "3"}, "count": 2}
    nights.sandbox.fault("orders.close", "status", tenant_id=nights.binding.tenant_id, **again)
    await due_together([nights], maxRuns=3)
    await until("the first attempt", lambda: "orders.close" in requests(nights))

    await batches.end(nights.binding)
    before = requests(nights).count("orders.close")
    await asyncio.sleep(8)

    assert requests(nights).count("orders.close") == before
    assert not nights.closes()


async def test_a_journey_that_somebody_ends_while_it_is_exchanged_configures_nothing(
    worker: Part, nights: Nights, client: PrefectClient
) -> None:
    tenant = nights.binding.tenant_id
    nights.sandbox.fault("token.exchange", "slow", tenant_id=tenant, seconds=6)
    before = nights.sandbox.verdict().configured
    journey_id = await journeys.start(nights.wanted(in_seconds(3600)), nights.caller_token())
    await until("the exchange", lambda: nights.sandbox.verdict().configured > before)
    await client.set_flow_run_state(journey_id, State(type=StateType.FAILED), force=True)

    await until("its answer, and the end", lambda: "revoke" in requests(nights))
    with pytest.raises(batches.UnknownBatchError):
        await batches.describe(nights.binding)


async def test_a_schedule_that_is_switched_on_again_is_laid_out_within_a_minute_or_so(
    nights: Nights, client: PrefectClient
) -> None:
    await nights.configure(in_seconds(3600), maxRuns=3)
    await switch(client, nights, on=False)
    assert not await nights.runs()

    await switch(client, nights, on=True)
    async with asyncio.timeout(90):
        while not await nights.runs():  # noqa: ASYNC110  (Prefect's own scheduler)
            await asyncio.sleep(1)


async def test_a_run_that_is_suspended_sends_nothing_until_it_is_resumed(
    worker: Part, nights: Nights, client: PrefectClient
) -> None:
    tenant = nights.binding.tenant_id
    nights.sandbox.fault("orders.prepareSnapshot", "slow", tenant_id=tenant, seconds=12)
    await due_together([nights], replication_delay=4)
    run = await nights.reach("Running")
    await until("the refresh", nights.refreshes)
    await asyncio.sleep(4)  # so that it waits for the answer to its snapshot
    suspended: State[None] = State(type=StateType.PAUSED, name="Suspended")
    suspended.state_details.pause_reschedule = True
    await client.set_flow_run_state(run.id, suspended)

    await until("the snapshot's answer", lambda: "orders.prepareSnapshot" in requests(nights))
    await asyncio.sleep(8)
    (run,) = await nights.runs()
    assert run.state_name == "Suspended"
    assert "orders.close" not in requests(nights)

    await client.resume_flow_run(run.id)
    await nights.reach("Completed")
    assert len(nights.closes()) == 1


async def test_a_run_that_was_cancelled_before_its_worker_died_ends_as_cancelled(
    start_worker: Callable[..., Part], nights: Nights, client: PrefectClient
) -> None:
    worker = start_worker()
    tenant = nights.binding.tenant_id
    nights.sandbox.fault("token.refresh", "slow", tenant_id=tenant, seconds=20)
    await due_together([nights])
    run = await nights.reach("Running")
    os.killpg(worker.process.pid, signal.SIGSTOP)
    await client.set_flow_run_state(run.id, State(type=StateType.CANCELLING))
    worker.kill()

    start_worker()
    await nights.reach("Cancelled")
    assert not nights.closes()


async def test_a_batch_can_be_ended_after_its_configuration_was_killed_and_cancelled(
    start_worker: Callable[..., Part], nights: Nights, client: PrefectClient
) -> None:
    await nights.configure(in_seconds(3600))
    worker = start_worker()
    tenant = nights.binding.tenant_id
    nights.sandbox.fault("token.exchange", "slow", tenant_id=tenant, seconds=20)
    before = nights.sandbox.verdict().configured
    journey_id = await journeys.start(nights.wanted(in_seconds(3600)), nights.caller_token())
    await until("the exchange", lambda: nights.sandbox.verdict().configured > before)
    worker.kill()
    await client.set_flow_run_state(journey_id, State(type=StateType.CANCELLED), force=True)

    async with asyncio.timeout(PATIENCE):
        await batches.end(nights.binding)

    with pytest.raises(batches.UnknownBatchError):
        await batches.describe(nights.binding)
