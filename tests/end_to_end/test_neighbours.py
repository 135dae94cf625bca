"""What is done to one binding, with nobody there to close anything, does not touch another's."""

from collections.abc import Callable
from uuid import UUID

from blocks import deployment
from deployments.sandbox.client import SandboxClient
from deployments.stack import Part
from tests.end_to_end.nights import Nights, due_together, in_seconds


async def standing(nights: Nights) -> dict[UUID, object]:
    """The runs that stand for these nights, and when each is expected to start."""
    return {run.id: run.expected_start_time for run in await nights.runs()}


async def test_reconfiguring_finishing_or_removing_one_binding_leaves_the_runs_of_another(
    start_worker: Callable[[], Part], sandbox: SandboxClient
) -> None:
    left_alone, reconfigured, finished, removed = everyone = [Nights(sandbox) for _ in range(4)]
    await due_together(everyone, maxRuns=3)
    before = {nights.binding: await standing(nights) for nights in everyone}
    assert [len(runs) for runs in before.values()] == [3, 3, 3, 3]

    for nights in everyone:
        await nights.reach("Late")
    await reconfigured.configure(in_seconds(3600), interval="P1D", maxRuns=2)
    await deployment.pause(finished.binding)
    await deployment.delete(removed.binding)

    assert await standing(left_alone) == before[left_alone.binding]
    assert (await left_alone.runs())[0].state_name == "Late"
    # The night that was due already is still promised; only then come the new ones.
    late, *new = await reconfigured.runs()
    assert late.id in before[reconfigured.binding]
    assert [run.id in before[reconfigured.binding] for run in new] == [False, False]

    start_worker()
    for nights in (left_alone, reconfigured):
        await nights.reach("Completed")
        assert len(nights.closes()) == 1
    assert not removed.closes()
    states = [run.state_name for run in await left_alone.runs()]
    assert states == ["Completed", "Scheduled", "Scheduled"]
