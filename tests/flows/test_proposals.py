"""Proposing the same state for several runs at once, against a real Prefect API."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Completed, Pending, Running, Scheduled

from blocks import clock, together
from blocks.lease import OwnershipLostError
from blocks.places import Places
from blocks.proposals import propose


@flow
async def nothing() -> None:
    """Its runs are never executed."""


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of the requests that go to Prefect's API."""
    sent: list[str] = []
    send = PrefectClient.request

    async def counted(self: PrefectClient, method: Any, path: Any, **options: Any) -> Any:
        if path.startswith("/flow_runs"):  # a lease is renewed, and a lock looked at, meanwhile
            sent.append(path)
        return await send(self, method, path, **options)

    monkeypatch.setattr(PrefectClient, "request", counted)
    return sent


async def running(client: PrefectClient, count: int) -> list[FlowRun]:
    """So many runs that are executed."""
    deployment = await client.create_deployment(await client.create_flow(nothing), "any")
    runs = [await client.create_flow_run_from_deployment(deployment) for _ in range(count)]
    for run in runs:
        await client.set_flow_run_state(run.id, Running(), force=True)
    return [await client.read_flow_run(run.id) for run in runs]


async def side_by_side(runs: list[FlowRun]) -> list[State[Any] | BaseException]:
    """Propose for each of them, as if all were executed by one worker, to wait for an hour."""
    places = Places(len(runs))
    moment = clock.now() + timedelta(hours=1)

    async def wait(run: FlowRun) -> State[Any]:
        async with places.one():
            return await propose(Scheduled(name="Wait", scheduled_time=moment), run)

    return await asyncio.gather(*(wait(run) for run in runs), return_exceptions=True)


async def test_runs_that_wait_for_the_same_are_told_so_together(
    client: PrefectClient, requests: list[str]
) -> None:
    runs = await running(client, 3)
    requests.clear()

    states = await side_by_side(runs)

    assert requests == ["/flow_runs/bulk_set_state"]
    for run, state in zip(runs, states, strict=True):
        stored = await client.read_flow_run(run.id)
        assert isinstance(state, State)
        assert (stored.state_id, stored.state_name) == (state.id, "Wait")


async def test_a_run_that_is_cancelled_meanwhile_stays_so(client: PrefectClient) -> None:
    runs = await running(client, 3)
    cancelling: State[Any] = State(type=StateType.CANCELLING)
    await client.set_flow_run_state(runs[0].id, cancelling, force=True)

    await side_by_side(runs)

    kinds = [(await client.read_flow_run(run.id)).state_name for run in runs]
    assert kinds == ["Cancelling", "Wait", "Wait"]


async def test_a_run_without_company_proposes_alone(
    client: PrefectClient, requests: list[str]
) -> None:
    runs = await running(client, 1)
    requests.clear()

    await side_by_side(runs)

    assert requests == ["/flow_runs/bulk_set_state"]


async def test_where_nothing_runs_beside_nothing_is_waited_for(
    client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "GATHERED_FOR", 3600)
    (run,) = await running(client, 1)

    async with asyncio.timeout(5):
        state = await propose(Scheduled(name="Wait"), run)

    assert state.name == "Wait"


async def claimed(client: PrefectClient, count: int) -> list[FlowRun]:
    """So many runs that a worker has claimed after a wait."""
    runs = await running(client, count)
    for run in runs:
        await client.set_flow_run_state(run.id, Pending(name="Resuming"), force=True)
    return [await client.read_flow_run(run.id) for run in runs]


async def test_runs_that_go_on_after_a_wait_are_put_to_wait_again_together(
    client: PrefectClient, requests: list[str]
) -> None:
    runs = await claimed(client, 3)
    requests.clear()

    await side_by_side(runs)

    assert requests == ["/flow_runs/bulk_set_state"]
    assert {(await client.read_flow_run(run.id)).state_name for run in runs} == {"Wait"}


SUSPENDED: State[Any] = State(type=StateType.PAUSED, name="Suspended")


@pytest.mark.parametrize("company", [0, 2], ids=["alone", "beside others"])
@pytest.mark.parametrize("meanwhile", [Cancelled(), SUSPENDED, Completed()], ids=str)
async def test_a_run_that_somebody_stopped_meanwhile_ends_and_stays_so(
    client: PrefectClient, company: int, meanwhile: State[Any]
) -> None:
    runs = await claimed(client, 1 + company)
    await client.set_flow_run_state(runs[0].id, meanwhile, force=True)

    first, *_others = await side_by_side(runs)

    assert isinstance(first, OwnershipLostError)
    kinds = [(await client.read_flow_run(run.id)).state_name for run in runs]
    assert kinds == [meanwhile.name, *["Wait"] * company]


async def test_a_run_that_is_deleted_meanwhile_ends(client: PrefectClient) -> None:
    (run,) = await claimed(client, 1)
    await client.delete_flow_run(run.id)

    assert isinstance((await side_by_side([run]))[0], OwnershipLostError)


async def test_a_state_whose_acceptance_was_not_heard_of_is_not_proposed_twice(
    client: PrefectClient,
) -> None:
    (run,) = await claimed(client, 1)
    ended = Completed(message="Closed")
    async with Places(1).one():
        first = await propose(ended, run)
        again = await propose(ended, run)

    assert (first.id, again.name) == (again.id, "Completed")
