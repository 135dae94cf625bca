"""Two workers of one pool: a night is carried to its end by the worker that began it."""

from collections.abc import Callable

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType

from deployments.sandbox.client import SandboxClient
from deployments.stack import Part
from tests.end_to_end.nights import Nights, due_together

TOGETHER = 8
"""Nights: so many, with two places each, that neither worker can begin them all at first."""


async def history(nights: Nights) -> list[State]:
    """All states that the run of the one night was in."""
    run = await nights.reach("Completed")
    async with get_client() as client:
        return await client.read_flow_run_states(run.id)


def named_in(states: list[State], workers: list[Part]) -> set[str]:
    """The workers that the states tell of: by whom a run was taken, and by whom it was kept."""
    messages = [state.message or "" for state in states]
    return {it.name for it in workers if any(it.name in message for message in messages)}


async def test_two_workers_share_the_nights_and_each_leaves_alone_what_the_other_has_begun(
    start_worker: Callable[..., Part], sandbox: SandboxClient
) -> None:
    workers = [start_worker(limit=2) for _ in range(2)]
    everyone = [Nights(sandbox) for _ in range(TOGETHER)]
    # Long enough for both to hear of every wait, in several polls, before it is over.
    await due_together(everyone, upstream_wait=8, replication_delay=5)

    histories = [await history(nights) for nights in everyone]

    assert [len(nights.closes()) for nights in everyone] == [1] * TOGETHER
    assert [nights.refreshes() for nights in everyone] == [1] * TOGETHER
    for states in histories:
        assert [it.type for it in states].count(StateType.RUNNING) == 1, states
        assert len(named_in(states, workers)) == 1, states
    begun = [state for states in histories for state in states]
    assert named_in(begun, workers) == {worker.name for worker in workers}
