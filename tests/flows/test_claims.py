"""How runs are taken from Prefect, against a real Prefect API."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Completed, Scheduled

from blocks import clock
from deployments.claims import KEPT_FOR, is_cancelled_instead_of_taken, take, wake
from deployments.owner import Owner
from flows.waiting import KEPT_BY

ME, OTHER = Owner("worker", "1"), Owner("other", "2")


@flow
async def nothing() -> None:
    """What is taken here is never executed."""


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


def waiting(
    name: str = "Scheduled", *, seconds: float = -1, keeper: Owner | None = None
) -> State[None]:
    """Scheduled for so many seconds from now on, and kept by somebody."""
    moment = clock.now() + timedelta(seconds=seconds)
    message = f"until then{KEPT_BY}{keeper}" if keeper else "until then"
    return Scheduled(name=name, scheduled_time=moment, message=message)


async def found(
    client: PrefectClient, state: State[None], *, begun: bool = False, nightly: bool = True
) -> FlowRun:
    """A run in this state, as a worker finds it."""
    deployment = await client.create_deployment(await client.create_flow(nothing), "any")
    run = await client.create_flow_run_from_deployment(deployment, state=state)
    run = await client.read_flow_run(run.id)
    run.run_count, run.auto_scheduled = int(begun), nightly
    return run


@pytest.mark.parametrize(
    ("nightly", "states"),
    [(True, ["Scheduled", "Running"]), (False, ["Scheduled", "Pending", "Running"])],
    ids=["by its schedule", "by hand, which counts against a deployment's limit"],
)
async def test_a_run_that_is_due_is_taken_and_begins(
    client: PrefectClient, nightly: bool, states: list[str]
) -> None:
    run = await found(client, waiting(), nightly=nightly)

    assert await take(client, [run], ME) == [run]

    stored = await client.read_flow_run(run.id)
    assert (stored.state_name, stored.state.message, stored.run_count) == ("Running", ME.mark, 1)
    assert [state.name for state in await client.read_flow_run_states(run.id)] == states


async def test_a_run_that_is_woken_is_resuming(client: PrefectClient) -> None:
    run = await found(client, waiting("WaitForUpstream"), begun=True)

    assert await take(client, [run], ME) == [run]

    stored = await client.read_flow_run(run.id)
    assert (stored.state_name, stored.state.message) == ("Resuming", ME.mark)


async def test_several_are_taken_together_whatever_they_waited_for(client: PrefectClient) -> None:
    runs = [
        await found(client, waiting("WaitForUpstream"), begun=True),
        await found(client, waiting()),
        await found(client, waiting("ReplicationDelay"), begun=True),
        await found(client, waiting("Late")),
    ]

    assert {run.id for run in await take(client, runs, ME)} == {run.id for run in runs}


@pytest.mark.parametrize(
    "meanwhile",
    [
        Cancelled(),
        Completed(),
        waiting("WaitForUpstream", seconds=100),
        waiting("ReplicationDelay"),
        waiting("HandedOver"),
    ],
    ids=lambda state: state.name,
)
async def test_a_run_that_is_not_as_it_was_found_is_left_alone(
    client: PrefectClient, meanwhile: State[None]
) -> None:
    run = await found(client, waiting("WaitForUpstream"), begun=True)
    await client.set_flow_run_state(run.id, meanwhile, force=True)

    assert await take(client, [run], ME) == []

    assert (await client.read_flow_run(run.id)).state_name == meanwhile.name


@pytest.mark.parametrize("nightly", [True, False])
async def test_a_run_is_taken_by_one_of_two_workers(client: PrefectClient, nightly: bool) -> None:
    runs = [await found(client, waiting(), nightly=nightly) for _ in range(3)]
    copies = [run.model_copy() for run in runs]

    one, other = await asyncio.gather(take(client, runs, ME), take(client, copies, OTHER))

    assert sorted(run.id for run in one + other) == sorted(run.id for run in runs)


async def test_a_run_that_another_worker_has_put_to_wait_does_not_begin_again(
    client: PrefectClient,
) -> None:
    run = await found(client, waiting())
    seen_before = run.model_copy()
    await take(client, [run], ME)
    later = waiting("WaitForUpstream", seconds=100)
    await client.set_flow_run_state(run.id, later)

    assert await take(client, [seen_before], OTHER) == []

    assert (await client.read_flow_run(run.id)).state_name == "WaitForUpstream"


async def test_a_run_that_this_worker_kept_is_woken_as_it_is(client: PrefectClient) -> None:
    kept = await found(client, waiting("WaitForUpstream", keeper=ME), begun=True)
    new = await found(client, waiting())

    assert {run.id for run in await wake(client, [kept, new], ME)} == {kept.id, new.id}

    assert (await client.read_flow_run(kept.id)).state_id == kept.state_id
    assert (await client.read_flow_run(new.id)).state_name == "Running"


@pytest.mark.parametrize(
    "meanwhile",
    [Cancelled(), waiting("WaitForUpstream", keeper=ME), waiting("HandedOver")],
    ids=["cancelled", "put to wait again", "handed over"],
)
async def test_a_run_that_was_kept_is_left_alone_if_it_is_not_as_it_was(
    client: PrefectClient, meanwhile: State[None]
) -> None:
    run = await found(client, waiting("WaitForUpstream", keeper=ME), begun=True)
    await client.set_flow_run_state(run.id, meanwhile, force=True)

    assert await wake(client, [run], ME) == []

    assert (await client.read_flow_run(run.id)).state_name == meanwhile.name


async def test_a_run_that_was_kept_is_left_alone_if_it_was_deleted(client: PrefectClient) -> None:
    run = await found(client, waiting("WaitForUpstream", keeper=ME), begun=True)
    await client.delete_flow_run(run.id)

    assert await wake(client, [run], ME) == []


LONG_AGO = -KEPT_FOR.total_seconds() - 1


@pytest.mark.parametrize(
    "state",
    [
        waiting("WaitForUpstream", keeper=Owner(ME.worker, "before")),
        waiting("WaitForUpstream", keeper=OTHER),
        waiting("WaitForUpstream", seconds=LONG_AGO, keeper=ME),
    ],
    ids=["by this worker before its restart", "by another", "too long ago, so others may have it"],
)
async def test_a_run_that_is_not_surely_kept_is_taken(
    client: PrefectClient, state: State[None]
) -> None:
    run = await found(client, state, begun=True)

    assert await wake(client, [run], ME) == [run]

    assert (await client.read_flow_run(run.id)).state_name == "Resuming"


async def test_a_woken_run_that_lasts_is_taken(client: PrefectClient) -> None:
    run = await found(client, waiting("WaitForUpstream", keeper=ME), begun=True)

    assert not await is_cancelled_instead_of_taken(client, run, ME)

    assert run.state.name == (await client.read_flow_run(run.id)).state_name == "Resuming"


async def test_a_woken_run_that_lasts_is_found_to_be_cancelled(client: PrefectClient) -> None:
    run = await found(client, waiting("WaitForUpstream", keeper=ME), begun=True)
    await client.set_flow_run_state(run.id, Cancelled(), force=True)

    assert await is_cancelled_instead_of_taken(client, run, ME)
