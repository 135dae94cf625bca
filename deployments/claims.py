"""How a worker takes runs for itself: many in one request to Prefect's API.

Prefect has no "take it if it is still as I know it". But the request that sets the state of several
runs takes a filter, a state that is not `Pending` yet can become so only once, and no run makes the
same transition twice in a row.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Pending, Running

from blocks import clock
from blocks.proposals import set_states
from deployments.owner import Owner
from deployments.recovery import KEPT_AT_MOST

BEGINNING = UUID("5d0f6c2e-6a53-4b8e-9b11-2f1f5d0a7c41")
"""The transition of every run that begins: Prefect refuses one that a run has just made."""

KEPT_FOR = KEPT_AT_MOST - timedelta(minutes=1)
"""After its moment, a run is woken by the worker that kept it without being taken for so long."""


async def wake(client: PrefectClient, runs: Sequence[FlowRun], me: Owner) -> list[FlowRun]:
    """Have those of the runs that are still waiting as they were found; returns them.

    What this process has kept, others leave alone: it is not taken, which would be a change of
    state for each, but looked at once more.

    Args:
        client: Prefect's API.
        runs: No more than `blocks.proposals.AT_ONCE`, each as it was found.
        me: This process.

    Raises httpx.HTTPError where Prefect's API is away; what was taken then is found by recovery.
    """
    kept = {run.id for run in runs if _is_kept(run, me)}
    woken = await _unchanged(client, [run for run in runs if run.id in kept])
    return woken + await take(client, [run for run in runs if run.id not in kept], me)


async def take(client: PrefectClient, runs: Iterable[FlowRun], me: Owner) -> list[FlowRun]:
    """The same, whoever has kept them: their states say then that this process has taken them."""
    taken: list[FlowRun] = []
    for found_as, alike in groupby(sorted(runs, key=_found_as), _found_as):
        taken += await _take_alike(client, list(alike), found_as, me.mark)
    return taken


async def is_cancelled_instead_of_taken(client: PrefectClient, run: FlowRun, me: Owner) -> bool:
    """Take a run that was only woken; returns whether somebody has cancelled it instead."""
    if run.state is None or not run.state.is_scheduled() or await take(client, [run], me):
        return False
    with suppress(ObjectNotFound):
        stored = await client.read_flow_run(run.id)
        return stored.state is not None and stored.state.is_cancelled()
    return False


def _is_kept(run: FlowRun, me: Owner) -> bool:
    due = run.next_scheduled_start_time
    return Owner.keeping(run) == me and due is not None and clock.now() - due < KEPT_FOR


async def _unchanged(client: PrefectClient, runs: Sequence[FlowRun]) -> list[FlowRun]:
    if not runs:
        return []
    wanted = {"id": {"any_": [str(run.id) for run in runs]}}
    # As they come: fifty of Prefect's models take as long as the rest of the request.
    answer = await client.request("POST", "/flow_runs/filter", json={"flow_runs": wanted})
    stored = {it["id"]: it["state_id"] for it in answer.json()}
    return [run for run in runs if stored.get(str(run.id)) == str(run.state_id)]


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
