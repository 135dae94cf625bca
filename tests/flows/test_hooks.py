"""A flow's hooks, where the batch-close worker executes it: as Prefect's own engine calls them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from prefect import Flow, flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.flows import FlowStateHook
from prefect.runtime import flow_run as this_run
from prefect.states import Running

from deployments.engine import execute


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


class Told:
    """Hooks that note what they are told, in their order."""

    def __init__(self) -> None:
        self.of: list[tuple[str, str]] = []

    def by(self, name: str) -> FlowStateHook[..., Any]:
        """A hook of this name."""

        async def note(flow: object, flow_run: FlowRun, state: State[Any]) -> None:
            self.of.append((name, str(state.name)))

        return note


async def run(flow: Flow[..., Any], client: PrefectClient) -> str | None:
    """Execute the flow as the worker does; returns the state that its run is left in."""
    created = await client.create_flow_run(flow, state=Running())
    await execute(flow, created, client)
    return (await client.read_flow_run(created.id)).state_name


async def test_hooks_that_are_async_are_awaited_and_one_that_fails_fails_nothing_else(
    client: PrefectClient,
) -> None:
    told = Told()

    def broken(flow: object, flow_run: FlowRun, state: State[Any]) -> None:
        raise ValueError("The hook is broken.")

    @flow(on_running=[told.by("running")], on_completion=[broken, told.by("completion")])
    async def closes() -> None: ...

    assert await run(closes, client) == "Completed"
    assert told.of == [("running", "Running"), ("completion", "Completed")]


async def test_a_run_that_is_cancelled_while_it_is_executed_is_not_told_to_have_failed(
    client: PrefectClient,
) -> None:
    told = Told()

    @flow(on_completion=[told.by("completion")], on_failure=[told.by("failure")])
    async def closes() -> None:
        await client.set_flow_run_state(str(this_run.id), State(type=StateType.CANCELLING))

    assert await run(closes, client) in {"Cancelling", "Cancelled"}
    assert told.of == []
