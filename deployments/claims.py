"""How a worker takes runs for itself: many in one request to Prefect's API.

Prefect has no "take it if it is still as I know it". But the request that sets the state of several
runs takes a filter, a state that is not `Pending` yet can become so only once, and no run makes the
same transition twice in a row.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Pending, Running

from blocks import clock
from blocks.proposals import set_states

BEGINNING = UUID("5d0f6c2e-6a53-4b8e-9b11-2f1f5d0a7c41")
"""The transition of every run that begins: Prefect refuses one that a run has just made."""


async def take(client: PrefectClient, runs: Iterable[FlowRun], mark: str) -> list[FlowRun]:
    """Take those of the runs that are still waiting as they were found; returns them.

    Args:
        client: Prefect's API.
        runs: No more than `blocks.proposals.AT_ONCE`, each as it was found.
        mark: What their states shall say of who took them.

    Raises httpx.HTTPError where Prefect's API is away; what was taken then is found by recovery.
    """
    taken: list[FlowRun] = []
    for found_as, alike in groupby(sorted(runs, key=_found_as), _found_as):
        taken += await _take_alike(client, list(alike), found_as, mark)
    return taken


def _found_as(run: FlowRun) -> str:
    # A run that begins anew is nowhere yet, whatever it is called: Scheduled, or Late by now.
    return run.state.name or "" if run.run_count and run.state else ""


async def _take_alike(
    client: PrefectClient, runs: Sequence[FlowRun], found_as: str, mark: str
) -> list[FlowRun]:
    waiting: dict[str, Any] = {
        "state": {"type": {"any_": [StateType.SCHEDULED]}},
        "next_scheduled_start_time": {"before_": clock.now().isoformat()},
    }
    if found_as:
        # What this process remembers of the run is true only if nobody has had it since.
        waiting["state"]["name"] = {"any_": [found_as]}
        return await _set(client, runs, Pending(name="Resuming", message=mark), waiting)
    # Prefect counts a deployment's runs against its limit where they become Pending.
    limited = [run for run in runs if not run.auto_scheduled]
    pending = {"state": {"type": {"any_": [StateType.PENDING]}}}
    taken = await _set(client, limited, Pending(message=mark), waiting)
    begun = await _set(client, taken, Running(message=mark), pending)
    nightly = [run for run in runs if run.auto_scheduled]
    begun += await _set(client, nightly, Running(message=mark), waiting, BEGINNING)
    for run in begun:
        run.run_count = 1
    return begun


async def _set(
    client: PrefectClient,
    runs: Sequence[FlowRun],
    state: State[Any],
    only: dict[str, Any],
    transition: UUID | None = None,
) -> list[FlowRun]:
    if not runs:
        return []
    ids = [run.id for run in runs]
    states = await set_states(client, ids, state, only, transition=transition)
    for run in runs:
        run.state = states.get(run.id) or run.state
    return [run for run in runs if run.id in states]
