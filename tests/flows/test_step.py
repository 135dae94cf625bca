"""What Prefect shows of a flow's steps."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from prefect import Flow, flow, get_run_logger
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, TaskRun

from deployments.engine import execute
from flows import step as steps
from flows.step import step


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


class Told(list[tuple[str, str | None, str | None, TaskRun]]):
    """What Prefect is told of steps: name, state, its message; and all the rest."""

    def __call__(self, run: TaskRun, _before: object, state: State[Any], _follows: object) -> None:
        """In place of Prefect's own function."""
        self.append((run.name.rpartition("-")[0], state.name, state.message, run.model_copy()))

    @property
    def states(self) -> list[str | None]:
        """Their states, in order."""
        return [state for _, state, _, _ in self]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """That the server shows it too is seen in tests/end_to_end/test_worker.py."""
    told = Told()
    monkeypatch.setattr(steps, "emit_task_run_state_change_event", told)
    return told


async def executed(client: PrefectClient, body: Flow[..., Any]) -> FlowRun:
    """One execution of this flow, as the worker does it."""
    run = await client.create_flow_run(body)
    await execute(body, run, client)
    return run


async def test_a_step_is_shown_once_with_how_long_it_took(
    client: PrefectClient, told: Told
) -> None:
    @step
    async def close_batch() -> None:
        await asyncio.sleep(0.05)

    @flow
    async def night() -> None:
        await close_batch()

    flow_run = await executed(client, night)

    ((name, state, _, run),) = told
    assert (name, state, run.flow_run_id) == ("close_batch", "Completed", flow_run.id)
    assert run.start_time
    assert run.end_time
    assert run.end_time - run.start_time == run.total_run_time >= timedelta(seconds=0.05)


async def test_a_step_that_fails_is_shown_so_with_its_reason(
    client: PrefectClient, told: Told
) -> None:
    @step
    async def close_batch() -> None:
        raise ValueError("no such batch")

    @flow
    async def night() -> None:
        await close_batch()

    assert (await executed(client, night)).state.is_failed()

    ((_, state, reason, _),) = told
    assert (state, reason) == ("Failed", "ValueError: no such batch")


async def test_a_step_that_lasts_is_shown_as_running_and_then_as_it_ended(
    client: PrefectClient, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "SHOWN_AFTER", 0.01)

    @step
    async def close_batch() -> None:
        await asyncio.sleep(0.1)

    @flow
    async def night() -> None:
        await close_batch()

    await executed(client, night)

    assert told.states == ["Running", "Completed"]


async def test_a_step_that_is_stopped_is_shown_as_crashed(
    client: PrefectClient, told: Told
) -> None:
    @step
    async def close_batch() -> None:
        await asyncio.Event().wait()

    @flow
    async def night() -> None:
        await close_batch()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(executed(client, night), 0.5)

    assert told.states == ["Crashed"]


async def test_what_is_logged_in_a_step_belongs_to_it() -> None:
    names = []

    @step
    async def close_batch() -> str:
        names.append(get_run_logger().extra["task_run_name"])  # type: ignore[union-attr, index]
        return "done"

    @flow
    async def night() -> str:
        return await close_batch()

    assert await night() == "done"
    assert names[0].startswith("close_batch-")


async def test_outside_of_a_flow_a_step_is_a_task_like_any_other(prefect_api: None) -> None:
    @step
    async def close_batch(number: int) -> int:
        return number

    assert await close_batch(7) == 7
