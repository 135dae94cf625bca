"""The worker, where its own doings cross with what Prefect says about them."""
# ruff: noqa: SLF001  (the moments that matter last for milliseconds: they are set up, not met)

import asyncio
from typing import cast
from uuid import UUID, uuid4

import anyio
import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.states import Pending
from prefect.workers.base import BaseWorker

from blocks import clock
from deployments.owner import Owner
from deployments.recovery import recover
from deployments.worker import BatchCloseWorker

ME = Owner("worker", "this-very-process")


class PrefectThatAnswersLate:
    """Says that a run is Pending, by which time the worker that asked has taken it."""

    def __init__(self, run: FlowRun, taken_meanwhile: set[UUID]) -> None:
        self.run = run
        self.taken_meanwhile = taken_meanwhile

    async def read_flow_runs(self, **_filters: object) -> list[FlowRun]:
        """The run as it was, after the worker has taken it."""
        self.taken_meanwhile.add(self.run.id)
        return [self.run]


async def test_a_run_that_comes_back_while_it_is_being_ended_is_left_for_the_next_look() -> None:
    # As a run does that begins to wait for less than the worker looks ahead.
    worker = BatchCloseWorker("pool", name="worker", limit=2)
    worker._client = cast("PrefectClient", object())
    run = FlowRun(id=uuid4(), flow_id=uuid4())
    worker._executing[run.id] = anyio.CancelScope()
    due = WorkerFlowRunResponse(work_pool_id=uuid4(), work_queue_id=uuid4(), flow_run=run)
    assert await worker._submit_scheduled_flow_runs([due]) == []


async def test_a_run_that_is_taken_while_prefect_answers_is_not_taken_for_abandoned() -> None:
    run = FlowRun(id=uuid4(), flow_id=uuid4(), state=Pending(message=f"Taken by {ME}"))
    held: set[UUID] = set()
    late = cast("PrefectClient", PrefectThatAnswersLate(run, held))
    assert await recover(late, "pool", ME, held) == []


async def test_runs_that_are_being_taken_at_a_heartbeat_are_not_taken_for_abandoned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = FlowRun(id=uuid4(), flow_id=uuid4(), next_scheduled_start_time=clock.now())
    is_asked, looked_at = asyncio.Event(), []

    async def answers_late(*_: object) -> list[FlowRun]:
        is_asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def look(*looked: object) -> None:
        looked_at.append(looked[-1])

    monkeypatch.setattr("deployments.worker.wake", answers_late)
    monkeypatch.setattr("deployments.worker.recover", look)
    monkeypatch.setattr(BaseWorker, "sync_with_backend", look)
    worker = BatchCloseWorker("pool", name="worker")
    worker._client = cast("PrefectClient", object())
    worker._due.add(run)
    serving = asyncio.create_task(worker._serve())
    await is_asked.wait()

    await worker._beat_and_recover()

    assert looked_at[-1] == {run.id}
    serving.cancel()


async def test_a_worker_outlives_a_long_absence_of_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    # Prefect's own loop ends a worker after a few failures in a row.
    async def nobody_there(_: object) -> None:
        raise httpx.ConnectError("nobody there")

    monkeypatch.setattr(BatchCloseWorker, "_get_scheduled_flow_runs", nobody_there)
    worker = BatchCloseWorker("pool", name="worker")
    worker._has_successfully_synced = worker._has_recovered = True

    for _ in range(20):
        assert await worker.get_and_submit_flow_runs() == []
