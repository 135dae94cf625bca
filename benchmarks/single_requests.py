"""What single requests to a Prefect server cost it: `python -m benchmarks.single_requests`.

A server on PostgreSQL with nothing else to do answers each kind of request a hundred times, one
after the other. Prints the CPU milliseconds of server and database, with what they do afterwards:
events are stored seconds later.
"""

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.blocks.system import Secret
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import BlockDocumentUpdate, VariableCreate, VariableUpdate
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Pending, Running, Scheduled

from benchmarks.installation import installed, postgres_port
from benchmarks.meter import Meter
from benchmarks.ways import BatchClose
from blocks import clock
from blocks.binding import Binding
from blocks.proposals import AT_ONCE, set_states
from deployments import postgres
from deployments.demo import create_work_pool
from deployments.stack import WORK_POOL

AFTERWARDS = 3.0
"""Seconds in which the server writes down what it remembers."""

GRANT, CONTEXT, TABLE = "x" * 900, {"night": "x" * 200}, "x" * 4000
"""As long as those of a binding are."""


@flow
async def nothing() -> None:
    """Its runs are never executed."""


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.single_requests")
    parser.add_argument("--times", type=int, default=100)
    asyncio.run(_measure(parser.parse_args().times))
    return 0


async def _measure(times: int) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="single-requests-") as home,
        installed(Path(home), "postgres", BatchClose()) as running,
        temporary_settings({PREFECT_API_URL: running.api_url}),
    ):
        meter = Meter()
        meter.add("server", running.parts[0].process.pid)
        meter.add("database", postgres.process_ids(postgres_port(running) or 0)[0])
        await create_work_pool()
        async with get_client() as client:
            async for what, done in _requests(client, times):
                before = sum(meter.cpu().values())
                await done
                await asyncio.sleep(AFTERWARDS)
                used = sum(meter.cpu().values()) - before
                print(f"{what:32} {used * 1000 / times:5.1f} ms", flush=True)  # noqa: T201


async def _requests(
    client: PrefectClient, times: int
) -> AsyncIterator[tuple[str, Awaitable[object]]]:
    """Each kind of request and what sends it so many times, in an order in which that can be."""
    numbers = range(times)
    runs = [await _due_run(client, number) for number in numbers]
    later: State[None] = Scheduled(name="WaitForUpstream", scheduled_time=clock.now())
    yield "begin, in a group", _in_groups(client, runs, Running())
    yield "wait, in a group", _in_groups(client, runs, later)
    yield "look once more, in a group", _look(client, runs)
    yield "take, in a group", _in_groups(client, runs, Pending(name="Resuming"))
    yield "complete, alone", _each(runs, lambda run: client.set_flow_run_state(run, Completed()))
    yield "name", _each(runs, lambda run: client.set_flow_run_name(run, f"acme/eod {run}"))
    own = [f"lock-{Binding(f'tenant-{number}', 'eod').slug}" for number in numbers]
    yield (
        "variable of a binding: create",
        _each(own, lambda name: client.create_variable(VariableCreate(name=name, value=CONTEXT))),
    )
    yield (
        "variable of a binding: write",
        _each(own, lambda name: client.update_variable(VariableUpdate(name=name, value=CONTEXT))),
    )
    yield "variable of a binding: delete", _each(own, client.delete_variable_by_name)
    yield "Secret block: create", _each(numbers, lambda it: Secret(value=GRANT).asave(f"s-{it}"))
    secret = await client.read_block_document_by_name("s-0", "secret")
    yield (
        "Secret block: read, alone",
        _each(numbers, lambda it: client.read_block_document_by_name(f"s-{it}", "secret")),
    )
    rewrite = BlockDocumentUpdate(data={"value": GRANT}, merge_existing_data=False)
    yield (
        "Secret block: write",
        _each(numbers, lambda _: client.update_block_document(secret.id, rewrite)),
    )
    table: dict[str, Any] = {"type": "table", "data": TABLE}
    yield (
        "artifact: create",
        _each(
            runs,
            lambda run: client.request("POST", "/artifacts/", json={**table, "key": f"a-{run}"}),
        ),
    )
    made = (await client.request("POST", "/artifacts/filter", json={"limit": 100})).json()
    for what, change in (("its table", {"data": TABLE}), ("no table", {"data": GRANT})):
        yield f"artifact: change {what}", _each(made, partial(_change_artifact, client, change))


async def _change_artifact(
    client: PrefectClient, change: dict[str, Any], artifact: dict[str, Any]
) -> None:
    await client.request(
        "PATCH", "/artifacts/{id}", path_params={"id": artifact["id"]}, json=change
    )


async def _due_run(client: PrefectClient, number: int) -> UUID:
    flow_id = await client.create_flow(nothing)
    deployment = await client.create_deployment(
        flow_id,
        f"any-{number}",
        work_pool_name=WORK_POOL,
        tags=["daily-orders", f"tenant:{number}"],
    )
    due: State[None] = Scheduled(scheduled_time=clock.now() - timedelta(seconds=1))
    return (await client.create_flow_run_from_deployment(deployment, state=due)).id


async def _in_groups(client: PrefectClient, runs: list[UUID], state: State[Any]) -> None:
    for begin in range(0, len(runs), AT_ONCE):
        await set_states(client, runs[begin : begin + AT_ONCE], state, {})


async def _look(client: PrefectClient, runs: list[UUID]) -> None:
    for begin in range(0, len(runs), AT_ONCE):
        some = [str(run) for run in runs[begin : begin + AT_ONCE]]
        await client.request(
            "POST", "/flow_runs/filter", json={"flow_runs": {"id": {"any_": some}}}
        )


async def _each(things: Any, send: Callable[[Any], Awaitable[object]]) -> None:
    for thing in things:
        await send(thing)


if __name__ == "__main__":
    raise SystemExit(main())
