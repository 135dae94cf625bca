"""How a worker claims runs from Prefect, against a real Prefect API."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Completed, Scheduled

from blocks import clock
from blocks.claim import Claim
from deployments import claims
from deployments.claims import claim, show_as_running

ME, OTHER = Claim("worker", uuid4().hex), Claim("worker", uuid4().hex)


@flow
async def nothing() -> None:
    """What is claimed here is never executed."""


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


def waiting(name: str = "Scheduled", *, seconds: float = -1) -> State[None]:
    """Scheduled for so many seconds from now on."""
    return Scheduled(name=name, scheduled_time=clock.now() + timedelta(seconds=seconds))


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
async def test_a_run_that_is_due_is_claimed_and_begins(
    client: PrefectClient, nightly: bool, states: list[str]
) -> None:
    run = await found(client, waiting(), nightly=nightly)

    assert await claim(client, [run], ME) == [run]

    stored = await client.read_flow_run(run.id)
    assert (stored.state_name, stored.run_count) == ("Running", 1)
    assert Claim.in_message(stored.state.message) == ME
    assert [state.name for state in await client.read_flow_run_states(run.id)] == states


async def test_a_night_is_claimed_right_into_its_first_wait(client: PrefectClient) -> None:
    waits = ["PT15M", "PT15M", "PT20M", "PT2S", "P2D", "soon", None]
    runs = [await found(client, waiting()) for _ in waits]
    for run, wait in zip(runs, waits, strict=True):
        run.parameters = {"configured": {"upstreamWaitDuration": wait} if wait else "nothing"}

    assert {run.id for run in await claim(client, runs, ME)} == {run.id for run in runs}

    stored = [await client.read_flow_run(run.id) for run in runs]
    claims = [Claim.in_message(run.state.message) for run in stored]
    assert [run.state_name for run in stored] == ["WaitForUpstream"] * 3 + ["Running"] * 4
    assert {by.process for by in claims if by} == {ME.process}
    for run, by, minutes in zip(stored, claims, (15, 15, 20), strict=False):
        until = run.expected_start_time + timedelta(minutes=minutes)
        assert by.until == until.replace(microsecond=0)


async def test_a_claim_that_fails_for_some_has_ended_for_all(
    client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [await found(client, waiting()) for _ in range(2)]
    runs[0].parameters = {"configured": {"upstreamWaitDuration": "PT15M"}}
    set_states = claims.set_states

    async def fails_for_one(by: PrefectClient, ids: list[UUID], *args: Any, **named: Any) -> Any:
        if ids == [runs[0].id]:
            raise httpx.ConnectError("Prefect is away.")
        await asyncio.sleep(0.5)
        return await set_states(by, ids, *args, **named)

    monkeypatch.setattr(claims, "set_states", fails_for_one)
    with pytest.raises(httpx.ConnectError):
        await claim(client, runs, ME)

    assert (await client.read_flow_run(runs[1].id)).state_name == "Running"


async def test_a_run_whose_wait_is_over_is_claimed_anew(client: PrefectClient) -> None:
    run = await found(client, waiting("WaitForUpstream"), begun=True)

    assert await claim(client, [run], ME) == [run]

    stored = await client.read_flow_run(run.id)
    assert (stored.state_name, Claim.in_message(stored.state.message)) == ("Resuming", ME)


async def test_several_are_claimed_together_whatever_they_waited_for(
    client: PrefectClient,
) -> None:
    runs = [
        await found(client, waiting("WaitForUpstream"), begun=True),
        await found(client, waiting()),
        await found(client, waiting("ReplicationDelay"), begun=True),
        await found(client, waiting("Late")),
    ]

    assert {run.id for run in await claim(client, runs, ME)} == {run.id for run in runs}


SUSPENDED: State[None] = State(type=StateType.PAUSED, name="Suspended")


@pytest.mark.parametrize(
    "meanwhile",
    [Cancelled(), Completed(), SUSPENDED, waiting("WaitForUpstream", seconds=100)],
    ids=lambda state: state.name,
)
async def test_a_run_that_is_not_due_any_more_is_left_alone(
    client: PrefectClient, meanwhile: State[None]
) -> None:
    run = await found(client, waiting("WaitForUpstream"), begun=True)
    await client.set_flow_run_state(run.id, meanwhile, force=True)

    assert await claim(client, [run], ME) == []

    assert (await client.read_flow_run(run.id)).state_name == meanwhile.name


async def test_a_run_that_was_deleted_is_left_alone(client: PrefectClient) -> None:
    run = await found(client, waiting("WaitForUpstream"), begun=True)
    await client.delete_flow_run(run.id)

    assert await claim(client, [run], ME) == []


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("nightly", [True, False])
async def test_a_run_is_claimed_by_one_of_two_processes(
    client: PrefectClient, nightly: bool, begun: bool
) -> None:
    runs = [await found(client, waiting(), nightly=nightly, begun=begun) for _ in range(3)]
    copies = [run.model_copy() for run in runs]

    one, other = await asyncio.gather(claim(client, runs, ME), claim(client, copies, OTHER))

    assert sorted(run.id for run in one + other) == sorted(run.id for run in runs)
    for claimed, by in ((one, ME), (other, OTHER)):
        for run in claimed:
            stored = await client.read_flow_run(run.id)
            assert Claim.in_message(stored.state.message) == by


async def test_a_run_that_another_process_has_put_to_wait_does_not_begin_again(
    client: PrefectClient,
) -> None:
    run = await found(client, waiting())
    seen_before = run.model_copy()
    await claim(client, [run], ME)
    later = waiting("WaitForUpstream", seconds=100)
    await client.set_flow_run_state(run.id, later)

    assert await claim(client, [seen_before], OTHER) == []

    assert (await client.read_flow_run(run.id)).state_name == "WaitForUpstream"


async def test_a_run_that_lasts_is_shown_as_running_and_stays_its_process_own(
    client: PrefectClient,
) -> None:
    run = await found(client, waiting("WaitForUpstream"), begun=True)
    await claim(client, [run], ME)

    await show_as_running(client, run, ME)

    stored = await client.read_flow_run(run.id)
    assert (stored.state_name, Claim.in_message(stored.state.message)) == ("Running", ME)


async def test_a_run_that_has_ended_is_not_shown_as_running(client: PrefectClient) -> None:
    run = await found(client, waiting("WaitForUpstream"), begun=True)
    await claim(client, [run], ME)
    await client.set_flow_run_state(run.id, Completed())

    await show_as_running(client, run, ME)

    assert (await client.read_flow_run(run.id)).state_name == "Completed"


@pytest.mark.parametrize(
    "message",
    [None, "", "Claimed by worker x", f"A note. {ME}", f"{ME}.", str(ME).replace("process", "pid")],
)
def test_what_is_no_claim_is_not_taken_for_one(message: str | None) -> None:
    assert Claim.in_message(message) is None
