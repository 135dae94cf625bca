"""The runs that a worker knows of, and when it hands them out."""

import asyncio
import tracemalloc
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from blocks import clock
from deployments.due import DueRuns


def run_due(*, seconds: float, run_id: UUID | None = None) -> FlowRun:
    moment = clock.now() + timedelta(seconds=seconds)
    return FlowRun(id=run_id or uuid4(), flow_id=uuid4(), next_scheduled_start_time=moment)


CONFIGURED = {"firstRunAt": "2026-11-24T23:00:00Z", "interval": "P1D", "maxRuns": 365}


async def test_runs_come_in_the_order_in_which_they_fell_due() -> None:
    due = DueRuns()
    late, later, not_yet = run_due(seconds=-9), run_due(seconds=-5), run_due(seconds=60)
    for run in (not_yet, later, late):
        due.add(run)

    assert await due.next(5) == [late, later]
    assert due.backlog() == 0


async def test_no_more_come_than_are_asked_for() -> None:
    due = DueRuns()
    for _ in range(5):
        due.add(run_due(seconds=-1))

    assert (len(await due.next(2)), due.backlog()) == (2, 3)


async def test_whoever_asks_early_waits_until_a_run_is_due() -> None:
    due = DueRuns()
    soon = run_due(seconds=0.05)
    asking = asyncio.create_task(due.next(1))
    await asyncio.sleep(0)
    due.add(soon)

    assert await asking == [soon]
    assert soon.next_scheduled_start_time <= clock.now()


async def test_a_run_that_is_known_is_not_remembered_twice() -> None:
    due = DueRuns()
    run = run_due(seconds=-1)

    assert (due.add(run), due.add(run.model_copy())) == (True, False)
    assert await due.next(5) == [run]


async def test_a_run_that_somebody_has_begin_sooner_comes_sooner_and_once() -> None:
    due = DueRuns()
    run = run_due(seconds=60)
    due.add(run)
    due.add(sooner := run_due(seconds=-1, run_id=run.id))

    assert await due.next(5) == [sooner]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(due.next(5), 0.05)


async def test_a_thousand_that_wait_hold_a_megabyte() -> None:
    due = DueRuns()
    due.add(run_due(seconds=60))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1000):
            run = run_due(seconds=60)
            run.state = Scheduled(name="WaitForUpstream", scheduled_time=clock.now())
            run.parameters = {
                "tenant_id": f"t{number}",
                "batch_id": "eod",
                "configured": CONFIGURED,
            }
            due.add(run)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert after - before < 1_200_000
