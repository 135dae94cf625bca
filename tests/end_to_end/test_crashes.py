"""Workers and servers that die, without a chance to say goodbye, while nights wait."""

from collections.abc import Callable, Iterable

from blocks import clock
from deployments.sandbox.client import SandboxClient
from deployments.stack import Part, Stack
from tests.end_to_end.nights import Nights, due_together


async def all_wait(everyone: Iterable[Nights], name: str) -> None:
    """Return once all are in this wait, and not about to leave it: it is safe to kill now."""
    for nights in everyone:
        await nights.reach(name)
    for nights in everyone:
        (run,) = await nights.runs()
        assert run.state
        assert run.state_name == name
        assert run.state.state_details.scheduled_time
        left = run.state.state_details.scheduled_time - clock.now()
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
    await due_together(everyone, upstream_wait=12, replication_delay=7)

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
