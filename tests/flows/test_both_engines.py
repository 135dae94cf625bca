"""The same flows through Prefect's own engine and the worker's: people see the same of both."""

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from prefect import Flow, Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_engine import run_flow
from prefect.states import Completed, Failed, Pending, Running

from deployments.engine import execute
from flows.step import step

NUMBERS = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|-[0-9a-f]{3}\b|0x[0-9a-f]+")
"""What differs between two runs of anything: ids, the ends of task runs' names, addresses."""

Engine = Callable[[Flow[..., Any], FlowRun, PrefectClient], Awaitable[object]]
Body = Callable[[int], Awaitable[Any]]


class Seen(NamedTuple):
    """What people see of a run."""

    state: tuple[object, str | None, str | None]
    """Its final state, as the server tells: type, name, message."""
    name: str | None
    """Unless it is as Prefect made it up."""
    hooks: list[tuple[str, object]]
    """Those that were called, and with which type of state."""
    logs: list[tuple[str, str]]
    """Level and message, without where Prefect's engine says that its UI shows the run."""
    result: object
    """What the state holds in the process that executed it; its kind, if it is an exception."""


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


async def with_prefects(flow: Flow[..., Any], run: FlowRun, _: PrefectClient) -> object:
    """Prefect's own engine; returns the state."""
    return await run_flow(flow, flow_run=run, parameters=run.parameters, return_type="state")


async def with_ours(flow: Flow[..., Any], run: FlowRun, client: PrefectClient) -> object:
    """The engine of the worker, which has claimed the run; returns the state."""
    await client.set_flow_run_state(run.id, Pending())
    await client.set_flow_run_state(run.id, Running())
    run.state = (await client.read_flow_run(run.id)).state
    await execute(flow, run, client)
    return run.state


async def see(
    engine: Engine,
    body: Body,
    client: PrefectClient,
    caplog: pytest.LogCaptureFixture,
    number: object = 7,
) -> Seen:
    """Execute a flow of this body, and look at it as people do."""
    hooks: list[tuple[str, object]] = []

    def told(name: str) -> list[Any]:
        def hook(_flow: object, _run: FlowRun, state: State[Any]) -> None:
            hooks.append((name, state.type))
            if number == "broken hooks":
                raise LookupError(name)

        return [hook]

    night = flow(
        name="night",
        flow_run_name="night {number}",
        persist_result=False,
        on_running=told("running"),
        on_completion=told("completion"),
        on_failure=told("failure"),
        on_crashed=told("crashed"),
    )(body)
    run = await client.create_flow_run(night, parameters={"number": number})
    made_up = run.name
    caplog.clear()
    with caplog.at_level(logging.INFO, "prefect"):
        state = await engine(night, run, client)
    assert isinstance(state, State)
    found = await client.read_flow_run(run.id)
    result = await state.aresult(raise_on_failure=False) if state.data is not None else None
    assert found.state
    return Seen(
        state=(found.state.type, found.state.name, found.state.message),
        name=found.name if found.name != made_up else None,
        hooks=hooks,
        logs=[
            (record.levelname, NUMBERS.sub("", record.getMessage()))
            for record in caplog.records
            if record.name in {"prefect.flow_runs", "prefect.engine"}
            and not record.getMessage().startswith("View at ")
        ],
        result=type(result) if isinstance(result, Exception) else result,
    )


async def returns_nothing(number: int) -> None:
    """A flow that says something in its log."""
    get_run_logger().info("The night of %s", number)


async def returns_a_value(number: int) -> dict[str, int]:
    """A flow with a result."""
    return {"closed": number}


async def returns_completed(number: int) -> State[Any]:
    """A flow that names its own end."""
    return Completed(name="Skipped", message=f"Not closed: {number}")


async def returns_failed(number: int) -> State[Any]:
    """A flow that tells itself why it failed."""
    return Failed(message=f"Refused: {number}")


async def raises(number: int) -> None:
    """A flow that does not know what to do."""
    raise ValueError(f"no such night: {number}")


FLOWS = [returns_nothing, returns_a_value, returns_completed, returns_failed, raises]


@pytest.mark.parametrize("number", [7, "7", "seven", "broken hooks"])
@pytest.mark.parametrize("body", FLOWS, ids=lambda body: body.__name__)
async def test_a_run_looks_the_same_whichever_engine_executes_it(
    body: Body, number: object, client: PrefectClient, caplog: pytest.LogCaptureFixture
) -> None:
    prefects = await see(with_prefects, body, client, caplog, number)
    ours = await see(with_ours, body, client, caplog, number)
    assert ours == prefects


@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
async def test_what_a_step_returns_raises_and_logs_is_what_a_task_does(
    fails: bool, client: PrefectClient, caplog: pytest.LogCaptureFixture
) -> None:
    async def close_batch(number: int) -> int:
        get_run_logger().info("Closing %s", number)
        if fails:
            raise ValueError("no such batch")
        return number + 1

    async def seen(as_task: Task[[int], Any]) -> Seen:
        async def body(number: int) -> State[Any]:
            return Completed(message=f"{await as_task(number)}")

        return await see(with_prefects, body, client, caplog)

    plain: Task[[int], Any] = task(persist_result=False, cache_policy=NO_CACHE)(close_batch)
    assert await seen(step(close_batch)) == await seen(plain)
