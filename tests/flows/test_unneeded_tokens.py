"""Callers' tokens that no journey is about to take are deleted by a worker's sweep."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running
from pydantic import SecretStr

from blocks import caller_token, secret_blocks
from deployments.sweep import Sweep
from deployments.unneeded_tokens import delete_unneeded
from tests.flows.batch import Batch
from tests.flows.journeys import Journeys

MOMENT = timedelta(seconds=5)
OWN = caller_token.TAKEN_WITHIN + MOMENT


async def sweep() -> None:
    """Look once, as a worker does now and then."""
    async with get_client() as client:
        await delete_unneeded(client)


async def is_stored(block: object) -> bool:
    return isinstance(block, str) and await secret_blocks.find(block) is not None


async def by_hand(batch: Batch) -> str:
    block = caller_token.name_by_hand(batch.binding.tenant_id)
    return await caller_token.hand_over(SecretStr("token"), block)


async def end(run: FlowRun, state: State[Any]) -> None:
    """Set the run's state, as somebody does in Prefect's UI."""
    async with get_client() as client:
        await client.set_flow_run_state(run.id, state, force=True)


@pytest.mark.parametrize(
    "state",
    [Cancelled(), Crashed(), Failed(), Completed()],
    ids=["cancelled before its run", "crashed", "failed", "completed by hand"],
)
async def test_the_token_of_a_journey_that_has_ended_is_deleted(
    journeys: Journeys, state: State[Any]
) -> None:
    run = await journeys.start()
    await end(run, state)
    journeys.batch.clock.ahead = OWN

    await sweep()

    assert not await is_stored(run.parameters["access_token_block"])


async def test_the_token_of_a_journey_whose_run_was_deleted_is_deleted(journeys: Journeys) -> None:
    run = await journeys.start()
    async with get_client() as client:
        await client.delete_flow_run(run.id)
    journeys.batch.clock.ahead = OWN

    await sweep()

    assert not await is_stored(run.parameters["access_token_block"])


async def test_the_token_of_an_api_that_was_killed_before_it_made_the_run_is_deleted(
    batch: Batch,
) -> None:
    block = await caller_token.hand_over(SecretStr("token"))
    await sweep()
    assert await is_stored(block), "its run may be made in a moment"

    batch.clock.ahead = OWN
    await sweep()

    assert not await is_stored(block)


@pytest.mark.parametrize(
    "states",
    [
        [],
        [Pending()],
        [Running()],
        [Running(), State(type=StateType.PAUSED)],
        [Running(), State(type=StateType.CANCELLING)],
    ],
    ids=["scheduled", "pending", "running", "paused", "being cancelled"],
)
async def test_the_token_of_a_journey_that_has_not_ended_is_kept(
    journeys: Journeys, states: list[State[Any]]
) -> None:
    run = await journeys.start()
    for state in states:
        await end(run, state)
    journeys.batch.clock.ahead = timedelta(days=1) - MOMENT

    await sweep()

    assert await is_stored(run.parameters["access_token_block"])


async def test_a_token_handed_over_by_hand_is_deleted_after_an_hour(batch: Batch) -> None:
    block = await by_hand(batch)
    batch.clock.ahead = caller_token.KEPT - MOMENT
    await sweep()
    assert await is_stored(block)

    batch.clock.ahead = caller_token.KEPT + MOMENT
    await sweep()

    assert not await is_stored(block)


async def test_a_token_handed_over_by_hand_is_kept_for_a_journey_that_is_about_to_take_it(
    journeys: Journeys,
) -> None:
    block = await by_hand(journeys.batch)
    run = await journeys.start()
    async with get_client() as client:
        await client.request(
            "PATCH",
            "/flow_runs/{id}",
            path_params={"id": run.id},
            json={"parameters": run.parameters | {"access_token_block": block}},
        )
    journeys.batch.clock.ahead = caller_token.KEPT + MOMENT

    await sweep()

    assert await is_stored(block)


async def test_a_token_is_deleted_after_a_day_though_a_journey_that_never_ends_names_it(
    journeys: Journeys,
) -> None:
    run = await journeys.start()
    await end(run, State(type=StateType.PAUSED))
    journeys.batch.clock.ahead = timedelta(days=1) + MOMENT

    await sweep()

    assert not await is_stored(run.parameters["access_token_block"])


async def test_a_token_is_deleted_after_a_day_though_new_journeys_name_it_again_and_again(
    journeys: Journeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await journeys.start()
    block = run.parameters["access_token_block"]

    async def read_unfinished(_: object) -> list[dict[str, Any]]:
        return [run.parameters]  # of a run that was made a moment ago

    monkeypatch.setattr("deployments.unneeded_tokens.read_unfinished", read_unfinished)
    journeys.batch.clock.ahead = timedelta(days=1) + MOMENT

    await sweep()

    assert not await is_stored(block)


@pytest.mark.parametrize("name", ["db-password", "a-caller-to-arms", "grant-caller-x"])
async def test_a_secret_that_is_no_callers_token_is_never_deleted(batch: Batch, name: str) -> None:
    await Secret(value="x").asave(name, overwrite=True)
    batch.clock.ahead = timedelta(days=30)

    await sweep()

    assert await is_stored(name)


async def test_a_token_that_cannot_be_deleted_holds_up_no_other(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [await caller_token.hand_over(SecretStr("token")) for _ in range(3)]
    stuck = await secret_blocks.find(min(blocks))
    delete = secret_blocks.delete

    async def mostly(block_id: UUID) -> None:
        if stuck and block_id == stuck.id:
            raise httpx.ReadTimeout("")
        await delete(block_id)

    monkeypatch.setattr(secret_blocks, "delete", mostly)
    batch.clock.ahead = OWN

    await sweep()

    assert [await is_stored(block) for block in sorted(blocks)] == [True, False, False]


async def test_nothing_is_deleted_while_prefect_does_not_tell_which_journeys_there_are(
    journeys: Journeys, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = await journeys.start()
    journeys.batch.clock.ahead = OWN
    request = PrefectClient.request

    async def troubled(client: PrefectClient, method: Any, path: Any, **options: Any) -> Any:
        if path == "/flow_runs/filter":
            raise httpx.ReadTimeout("")
        return await request(client, method, path, **options)

    monkeypatch.setattr(PrefectClient, "request", troubled)
    async with get_client() as client:
        await Sweep().look(client)

    assert await is_stored(run.parameters["access_token_block"])
    assert "Callers' tokens are not looked through now (ReadTimeout)" in caplog.text


async def test_two_workers_may_look_at_once(batch: Batch) -> None:
    blocks = [await caller_token.hand_over(SecretStr("token")) for _ in range(3)]
    batch.clock.ahead = OWN

    await asyncio.gather(sweep(), sweep())

    assert [await is_stored(block) for block in blocks] == [False, False, False]


async def test_a_look_does_not_read_what_it_deletes(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await caller_token.hand_over(SecretStr("token"))
    request, asked = PrefectClient.request, []

    async def noting(client: PrefectClient, method: Any, path: Any, **options: Any) -> Any:
        asked.append((path, options.get("json") or {}))
        return await request(client, method, path, **options)

    monkeypatch.setattr(PrefectClient, "request", noting)
    batch.clock.ahead = OWN

    await sweep()

    paths = [path for path, _ in asked]
    assert paths[:2] == ["/block_documents/filter", "/flow_runs/filter"]
    assert not any(wanted.get("include_secrets") for _, wanted in asked)
