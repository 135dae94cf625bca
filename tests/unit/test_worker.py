"""The worker, where its own doings cross with what Prefect says about them."""
# ruff: noqa: SLF001  (the moments that matter last for milliseconds: they are set up, not met)

import asyncio
import logging
from collections.abc import Callable
from itertools import cycle
from typing import cast
from uuid import UUID, uuid4

import anyio
import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Pending
from prefect.workers.base import BaseWorker

from blocks import clock
from blocks.claim import Claim
from blocks.lease import Lease
from blocks.ownership import Work
from blocks.places import Places
from deployments import execution
from deployments.due import DueMoments
from deployments.execution import Execution, Executions
from deployments.queue import Queue
from deployments.recovery import Looks, recover
from deployments.worker import BatchCloseWorker

ME = uuid4().hex


def gateways_own(status: int) -> httpx.HTTPStatusError:
    """What stands before a Prefect server that is being replaced."""
    request = httpx.Request("POST", "http://prefect.invalid")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status))


class PrefectThatAnswersLate:
    """Says that a run is Pending, by which time the worker that asked has claimed it."""

    def __init__(self, run: FlowRun, claimed_meanwhile: set[UUID]) -> None:
        self.run = run
        self.claimed_meanwhile = claimed_meanwhile

    async def read_flow_runs(self, **_filters: object) -> list[FlowRun]:
        """The run as it was, after the worker has claimed it."""
        self.claimed_meanwhile.add(self.run.id)
        return [self.run]


async def test_a_run_that_is_claimed_while_prefect_answers_is_not_taken_for_left() -> None:
    claim = Claim("worker", ME)
    run = FlowRun(id=uuid4(), flow_id=uuid4(), state=Pending(message=str(claim)))
    held: set[UUID] = set()
    late = cast("PrefectClient", PrefectThatAnswersLate(run, held))
    assert await recover(late, "pool", ME, held.__contains__) == []


async def test_runs_that_are_being_claimed_at_a_heartbeat_are_not_taken_for_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = FlowRun(id=uuid4(), flow_id=uuid4())
    is_asked, looked_at = asyncio.Event(), []

    async def answers_late(*_: object) -> list[FlowRun]:
        is_asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def look(*looked: object) -> None:
        if looked[1:]:
            looked_at.append(cast("Callable[[UUID], bool]", looked[3])(run.id))

    async def found(*_: object) -> list[FlowRun]:
        return [run]

    monkeypatch.setattr("deployments.queue.claim", answers_late)
    monkeypatch.setattr("deployments.worker.recover", look)
    monkeypatch.setattr(BaseWorker, "sync_with_backend", look)
    monkeypatch.setattr(Queue, "_find", found)
    worker = BatchCloseWorker("pool", name="worker")
    worker._client = cast("PrefectClient", object())
    worker._lease, worker._has_recovered = Lease("worker"), True
    serving = asyncio.create_task(worker._serve())
    await is_asked.wait()

    await worker.sync_with_backend()

    assert looked_at == [True]
    serving.cancel()


async def test_a_worker_outlives_a_long_absence_of_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    # Prefect's own loop ends a worker after a few failures in a row.
    trouble = cycle([httpx.ConnectError("nobody there"), gateways_own(404), ValueError("a page")])

    async def nobody_there(_: object) -> None:
        raise next(trouble)

    monkeypatch.setattr(BatchCloseWorker, "_get_scheduled_flow_runs", nobody_there)
    worker = BatchCloseWorker("pool", name="worker")
    worker._has_successfully_synced = worker._has_recovered = True

    for _ in range(20):
        assert await worker.get_and_submit_flow_runs() == []


@pytest.mark.parametrize(
    ("trouble", "ended"), [(RuntimeError("each time"), 1), (httpx.ReadError("passing"), 0)]
)
async def test_a_run_that_is_interrupted_each_time_is_ended_and_not_begun_for_ever(
    monkeypatch: pytest.MonkeyPatch, trouble: Exception, ended: int
) -> None:
    async def interrupted(*_: object) -> None:
        raise trouble

    async def end(run: FlowRun, why: str, _: object) -> None:
        said.append((run.id, why))

    async def nothing(*_: object) -> None:
        pass

    said: list[tuple[UUID, str]] = []
    monkeypatch.setattr(Executions, "_execute", interrupted)
    monkeypatch.setattr(Executions, "_show_if_slow", nothing)
    monkeypatch.setattr("deployments.execution._end_unexecuted", end)
    executions = Executions(Places(1), DueMoments(), logging.getLogger(), Looks())
    run, lease = FlowRun(id=uuid4(), flow_id=uuid4()), Lease("worker")
    prefect = cast("PrefectClient", object())
    for _ in range(3):
        assert not said
        execution = Execution(run, Work(lease, run.id), Claim("worker", ME))
        await executions.carry_out(execution, prefect)
    assert [run_id for run_id, _ in said] == [run.id] * ended


async def test_two_workers_of_one_name_are_two_processes() -> None:
    assert Lease("worker").process.id != Lease("worker").process.id


def test_what_was_left_is_looked_for_where_a_process_departed_and_else_every_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks, now = Looks(), 1000.0
    monkeypatch.setattr(clock, "elapsed", lambda: now)
    assert looks.is_due(departed=0)
    looks.done(looks.begin(departed=0))
    assert not looks.is_due(departed=0)
    assert looks.is_due(departed=1)
    now += 60
    assert looks.is_due(departed=0)


def test_what_is_left_while_a_look_is_under_way_is_looked_for_after_it() -> None:
    looks = Looks()
    seen = looks.begin(departed=0)
    looks.soon()
    looks.done(seen)
    assert looks.is_due(departed=0)


async def test_a_worker_that_is_stopped_gives_its_runs_back_for_some_seconds_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = asyncio.Event()

    async def unanswered(*_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(execution, "give_back", unanswered)
    monkeypatch.setattr(execution, "GIVEN_BACK_WITHIN", 0.1)
    executions = Executions(Places(1), DueMoments(), logging.getLogger(), Looks())
    monkeypatch.setattr(executions, "_load", unanswered)
    run = FlowRun(id=uuid4(), flow_id=uuid4(), state=Pending())
    held = executions.hold(run, Work(Lease("worker"), run.id), Claim("worker", ME))

    async with asyncio.timeout(10), anyio.create_task_group() as runs:
        runs.start_soon(executions.carry_out, held, cast("PrefectClient", None))
        await asked.wait()
        asked.clear()
        runs.cancel_scope.cancel()

    assert asked.is_set(), "it was not given back at all"
    assert not executions.run_ids
