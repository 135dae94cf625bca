"""Runs that Prefect cannot tell of, wherever they are: they stop no sweep for good."""

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Cancelled
from pydantic import SecretStr

from blocks import caller_token, secret_blocks
from deployments import unreadable
from deployments.readable import is_unreadable
from deployments.stopped import StoppedRuns
from deployments.sweep import Sweep
from deployments.unreadable import set_aside_unreadable
from flows.configure import configure
from tests.flows.batch import Batch

Poison = Callable[..., Coroutine[Any, Any, UUID]]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unreadable, "PAUSE_SECONDS", 0.1)


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


@pytest.fixture
async def poisoned(client: PrefectClient) -> AsyncIterator[Poison]:
    """Creates runs of configure with an integer beyond 64 bits, and deletes them in the end."""
    made: list[UUID] = []

    async def create(state: str, due: datetime, pool: str | None = None) -> UUID:
        made.append(await _create(client, state, due, pool))
        with suppress(httpx.HTTPStatusError):
            await client.request(
                "POST", "/flow_runs/filter", json={"flow_runs": {"id": {"any_": [str(made[-1])]}}}
            )
            pytest.skip("This Prefect server can tell of it: those from 3.9 on can.")
        return made[-1]

    yield create
    for run_id in made:
        await client.delete_flow_run(run_id)


async def _create(client: PrefectClient, state: str, due: datetime, pool: str | None) -> UUID:
    name = f"poisoned-{uuid4()}"
    known = {
        "flow_id": str(await client.create_flow(configure)),
        "work_pool_name": pool,
        "name": name,
        "state": {"type": state, "state_details": {"scheduled_time": due.isoformat()}},
    }
    body = f'{json.dumps(known)[:-1]}, "parameters": {{"max_runs": 18446744073709551616}}}}'
    with suppress(httpx.HTTPStatusError):
        await client.request("POST", "/flow_runs/", content=body)
    wanted = {"flow_runs": {"name": {"any_": [name]}}}
    url: Any = "/ui/flow_runs/history"
    return UUID((await client.request("POST", url, json=wanted)).json()[0]["id"])


@pytest.mark.parametrize("state", ["SCHEDULED", "RUNNING", "PAUSED"])
async def test_an_unreadable_journey_outside_the_pool_stops_no_sweep_for_good(
    batch: Batch, client: PrefectClient, poisoned: Poison, state: str
) -> None:
    assert (await batch.configure()).is_completed()  # a run that can be read
    await poisoned(state, batch.clock() + timedelta(days=365))
    block = await caller_token.hand_over(SecretStr("token"))
    batch.clock.ahead = caller_token.TAKEN_WITHIN + timedelta(seconds=5)
    sweep = Sweep()
    trouble = await sweep.look(client)
    assert trouble
    assert is_unreadable(trouble), "the worker sets runs aside only then"
    assert await secret_blocks.find(block), "it could be that journey's"

    await set_aside_unreadable(client, "another pool")

    assert await sweep.look(client) is None
    assert not await secret_blocks.find(block)


async def test_an_unreadable_run_that_was_ended_long_before_it_was_due_is_set_aside(
    batch: Batch, client: PrefectClient, poisoned: Poison
) -> None:
    assert (await batch.configure()).is_completed()
    pool = f"pool-{uuid4().hex[:8]}"
    await client.create_work_pool(WorkPoolCreate(name=pool, type="batch-close"))
    run_id = await poisoned("SCHEDULED", batch.clock() + timedelta(hours=36), pool)
    with suppress(httpx.HTTPStatusError):
        await client.set_flow_run_state(run_id, Cancelled(), force=True)
    batch.clock.ahead = timedelta(days=2)
    with pytest.raises(httpx.HTTPStatusError):
        await StoppedRuns().record(client, pool)
    # Something else of the pool that can be read, or it may be that nothing can be at the moment.
    await client.create_flow_run(configure, name=pool, work_pool_name=pool)

    await set_aside_unreadable(client, pool)

    await StoppedRuns().record(client, pool)
