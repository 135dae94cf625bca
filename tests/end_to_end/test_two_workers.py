"""Two workers of one pool: each piece of a night is executed by one of them, and by one only."""

from collections.abc import Callable

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType

from blocks.claim import Claim
from deployments.sandbox.client import SandboxClient
from deployments.stack import Part
from tests.end_to_end.nights import Nights, due_together

ENDED = "Completed"
TOGETHER = 8
"""Nights: so many, with two places each, that neither worker can begin them all at first."""


async def history(nights: Nights) -> list[State]:
    """All states that the run of the one night was in."""
    run = await nights.reach("Completed")
    async with get_client() as client:
        return await client.read_flow_run_states(run.id)


def claims_in(states: list[State]) -> list[Claim]:
    """By whom a run was claimed, one after the other."""
    return [claim for state in states if (claim := Claim.in_message(state.message))]


async def test_two_workers_share_the_nights_and_each_leaves_alone_what_the_other_has_claimed(
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
        names = [it.name for it in states if it.name not in {"Late", "Running"}]
        assert names[1:] == ["WaitForUpstream", "ReplicationDelay", ENDED]
        assert [it.type for it in states].count(StateType.COMPLETED) == 1, states
    claims = [claim for states in histories for claim in claims_in(states)]
    assert {claim.worker for claim in claims} == {worker.name for worker in workers}
    assert len({claim.process for claim in claims}) == len(workers)
