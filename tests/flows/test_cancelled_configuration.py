"""A configuration that somebody cancels leaves nothing live that was not live before."""

from collections.abc import Callable
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Running

from blocks import deployment, standing
from blocks.lease import OwnershipLostError
from deployments.engine import end_cancelled
from deployments.sweep import Sweep
from flows import configure as configuring
from flows import undoing
from flows.configure import configure
from tests.flows.batch import Batch, is_alive
from tests.flows.journeys import Journeys, Killed


async def sweep() -> None:
    async with get_client() as client:
        await Sweep().look(client)


async def end(run: FlowRun, state: State[Any]) -> None:
    async with get_client() as client:
        await client.set_flow_run_state(run.id, state, force=True)


async def delete(run: FlowRun) -> None:
    async with get_client() as client:
        await client.delete_flow_run(run.id)


@pytest.fixture
def killed_at(journeys: Journeys, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A journey whose worker was killed right before this piece of the flow."""

    async def begin(piece: str) -> FlowRun:
        run = await journeys.start()
        with monkeypatch.context() as kill:
            kill.setattr(configuring, piece, Killed.at_once)
            return await journeys.work(run)

    return begin


ENDS = {
    "cancelled": lambda run: end(run, Cancelled()),
    "deleted": delete,
}


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("piece", ["configure_schedule", "complete_configured"])
async def test_a_first_configuration_that_was_cancelled_half_way_leaves_nothing(
    batch: Batch, killed_at: Callable[[str], Any], piece: str, ends: Callable[[FlowRun], Any]
) -> None:
    run = await killed_at(piece)
    grant = await batch.grant()
    assert grant
    assert (await batch.deployment() is not None) == (piece == "complete_configured")
    await ends(run)

    await sweep()

    assert not await batch.is_configured()
    assert not await is_alive(grant.refresh_token)


async def test_a_configuration_whose_worker_died_is_left_alone_while_it_may_go_on(
    batch: Batch, journeys: Journeys, killed_at: Callable[[str], Any]
) -> None:
    run = await killed_at("complete_configured")
    await end(run, Running())

    await sweep()

    assert await batch.is_configured()
    assert (await journeys.work(run)).state_name == "Completed"
    await sweep()
    assert await batch.deployment()
    assert await batch.grant()


async def test_a_configuration_that_was_done_stays_though_its_run_is_deleted(
    batch: Batch, journeys: Journeys
) -> None:
    run = await journeys.work(await journeys.start())
    assert run.state_name == "Completed"
    await delete(run)

    await sweep()

    assert await batch.deployment()
    assert await batch.grant()


async def test_a_reconfiguration_that_was_cancelled_leaves_the_nights_as_they_stand(
    batch: Batch, killed_at: Callable[[str], Any]
) -> None:
    assert (await batch.configure()).is_completed()
    run = await killed_at("complete_configured")
    await end(run, Cancelled())

    await sweep()

    found = await batch.deployment()
    assert found
    assert not found.paused
    grant = await batch.grant()
    assert grant
    assert await is_alive(grant.refresh_token)


async def test_what_a_cancelled_configuration_replaced_in_a_batch_that_had_stopped_stays_stopped(
    batch: Batch, killed_at: Callable[[str], Any]
) -> None:
    assert (await batch.configure()).is_completed()
    await deployment.pause(batch.binding)
    run = await killed_at("complete_configured")
    await end(run, Cancelled())

    await sweep()

    assert await batch.is_paused()
    assert await batch.grant() is None


async def test_a_newer_configuration_is_not_taken_back_with_the_cancelled_one_before(
    batch: Batch, killed_at: Callable[[str], Any]
) -> None:
    run = await killed_at("complete_configured")
    await end(run, Cancelled())
    assert (await batch.configure()).is_completed()

    await undoing.undo(batch.binding, str(run.id))
    await sweep()

    assert await batch.deployment()
    grant = await batch.grant()
    assert grant
    assert await is_alive(grant.refresh_token)


async def test_the_flows_hook_takes_back_at_once_what_a_cancelled_journey_did(
    batch: Batch, killed_at: Callable[[str], Any]
) -> None:
    run = await killed_at("complete_configured")

    async with get_client() as client:
        await end_cancelled(configure, run, client)

    assert not await batch.is_configured()
    assert not await batch.caller_token_is_stored()


async def test_the_flows_hook_deletes_the_token_of_a_journey_cancelled_before_it_was_taken(
    journeys: Journeys,
) -> None:
    run = await journeys.start()
    journeys.batch.caller_block = run.parameters["access_token_block"]
    assert await journeys.batch.caller_token_is_stored()

    async with get_client() as client:
        await end_cancelled(configure, run, client)

    assert not await journeys.batch.caller_token_is_stored()


async def test_a_journey_that_finds_itself_ended_after_its_schedule_takes_it_back(
    batch: Batch, journeys: Journeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await journeys.start()

    async def ended(*_: object) -> None:
        await end(run, Cancelled())
        raise OwnershipLostError("The run is Cancelled now.")

    monkeypatch.setattr(configuring, "complete_configured", ended)
    await journeys.work(run)

    assert not await batch.is_configured()


async def test_a_gateways_404_is_no_evidence_that_nothing_was_configured_before(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await batch.configure()).is_completed()

    async def not_found(*_: object) -> None:
        return None

    monkeypatch.setattr(deployment, "_find", not_found)

    assert await undoing.stands_before(batch.binding) is None
    assert await standing.read(batch.binding)
