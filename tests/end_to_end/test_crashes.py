"""Workers and servers that die while nights wait or are closed, with nobody to help them."""

import asyncio
import signal
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from blocks import clock, context
from deployments import journeys
from deployments.sandbox.client import SandboxClient
from deployments.stack import Part, Stack
from tests.end_to_end.nights import PATIENCE, Nights, due_together, in_seconds, until, waits_until


async def all_wait(everyone: Iterable[Nights], name: str) -> None:
    """Return once all are in this wait, and not about to leave it: it is safe to kill now."""
    for nights in everyone:
        await nights.reach(name)
    for nights in everyone:
        (run,) = await nights.runs()
        assert run.state
        assert run.state_name == name
        left = waits_until(run.state) - clock.now()
        assert left.total_seconds() > 2, f"{name} was reached too late to kill anything in it"


async def all_close(everyone: Iterable[Nights]) -> None:
    """Each closed its one night, once."""
    for nights in everyone:
        await nights.reach("Completed")
        (run,), (close,) = await nights.runs(), nights.closes()
        assert close.occurrence == run.expected_start_time
        assert nights.refreshes() == 1


async def test_a_worker_killed_during_each_wait_leaves_the_rest_of_the_night_to_another(
    start_worker: Callable[[], Part], sandbox: SandboxClient
) -> None:
    everyone = [Nights(sandbox), Nights(sandbox)]
    worker = start_worker()
    await due_together(everyone, upstream_wait=12, replication_delay=15)

    for wait in ("WaitForUpstream", "ReplicationDelay"):
        await all_wait(everyone, wait)
        worker.kill()
        worker = start_worker()
    await all_close(everyone)


async def test_a_server_killed_during_a_wait_goes_on_where_it_was_and_so_does_the_worker(
    installation: Stack, worker: Part, sandbox: SandboxClient
) -> None:
    everyone = [Nights(sandbox), Nights(sandbox)]
    await due_together(everyone, upstream_wait=12, replication_delay=7)

    await all_wait(everyone, "WaitForUpstream")
    installation.restart_server()
    await all_close(everyone)

    assert worker.process.poll() is None, "the worker gave up"


async def in_the_middle_of_its_close(nights: Nights) -> None:
    """Return when the Orders API has closed the batch, and the worker waits for the answer."""
    name = nights.binding.tenant_id
    nights.sandbox.fault("orders.close", "slow", tenant_id=name, seconds=10)
    await due_together([nights])
    await until("the close to take effect", nights.closes)


async def test_a_worker_killed_in_the_middle_of_a_close_leaves_it_to_another(
    start_worker: Callable[[], Part], nights: Nights
) -> None:
    worker = start_worker()
    await in_the_middle_of_its_close(nights)

    worker.kill()
    start_worker()
    await all_close([nights])


@pytest.mark.parametrize(
    "sigint", [signal.default_int_handler, signal.SIG_IGN], ids=["", "background"]
)
async def test_a_worker_that_is_stopped_in_the_middle_of_a_close_hands_it_over(
    start_worker: Callable[[], Part], nights: Nights, sigint: Any
) -> None:
    before = signal.signal(signal.SIGINT, sigint)  # ignored by what a script starts with `&`
    try:
        worker = start_worker()
    finally:
        signal.signal(signal.SIGINT, before)
    await in_the_middle_of_its_close(nights)

    worker.stop()
    assert worker.process.returncode == 0
    await nights.reach("HandedOver", patience=1)
    start_worker()
    await all_close([nights])


async def test_a_server_killed_in_the_middle_of_a_close_is_told_of_it_later(
    installation: Stack, worker: Part, nights: Nights
) -> None:
    await in_the_middle_of_its_close(nights)

    installation.restart_server()
    await all_close([nights])
    assert worker.process.poll() is None, "the worker gave up"


async def test_a_configuration_goes_on_after_its_worker_was_killed(
    start_worker: Callable[[], Part], nights: Nights
) -> None:
    tenant = nights.binding.tenant_id
    nights.sandbox.fault("token.exchange", "slow", tenant_id=tenant, seconds=10)
    before = nights.sandbox.verdict().configured
    worker = start_worker()
    journey_id = await journeys.start(nights.wanted(in_seconds(3600)), nights.caller_token())
    await until("the exchange", lambda: nights.sandbox.verdict().configured > before)

    worker.kill()
    start_worker()
    async with asyncio.timeout(PATIENCE):
        while (await journeys.status(journey_id)).phase == "Running":  # noqa: ASYNC110
            await asyncio.sleep(0.5)

    assert (await journeys.result(journey_id)).status == "SCHEDULED"
    assert len(await nights.runs()) == 1


async def test_a_night_without_any_worker_is_skipped_once_the_next_one_is_due(
    start_worker: Callable[[], Part], nights: Nights
) -> None:
    await due_together([nights], interval="PT12S", maxRuns=2)
    second = (await nights.moments())[1]
    await until("the second night", lambda: clock.now() > second)

    start_worker()
    await nights.reach("Skipped", night=1)
    await nights.reach("Completed", night=2)
    (close,) = nights.closes()
    assert close.occurrence == second
    last = (await context.load(nights.binding)).last_batch
    assert last
    assert (last.status, last.run) == ("CLOSED", 2)
