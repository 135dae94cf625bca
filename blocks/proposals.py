"""Proposes states of flow runs to Prefect's API: the same state for several runs in one request."""

from collections.abc import Collection
from typing import Any
from uuid import UUID, uuid4

from cachetools import LRUCache
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import Abort, ObjectNotFound
from prefect.states import to_state_create
from prefect.utilities.engine import propose_state
from pydantic import BaseModel

from blocks.places import is_beside_others
from blocks.together import Together

AT_ONCE = 50
"""Prefect's API takes no more in one request."""

_companies: LRUCache[str, Together[UUID, State[Any]]] = LRUCache(100)


class _Result(BaseModel):
    flow_run_id: UUID
    status: SetStateStatus
    state: State[Any] | None


class _Answer(BaseModel):
    results: list[_Result]


async def set_states(
    client: PrefectClient,
    run_ids: Collection[UUID],
    state: State[Any],
    only: dict[str, Any],
    *,
    transition: UUID | None = None,
) -> dict[UUID, State[Any]]:
    """Propose one state for up to AT_ONCE runs; what was accepted, by run.

    Args:
        client: Prefect's API.
        run_ids: The runs.
        state: The state, without data.
        only: A Prefect flow run filter besides: runs that it does not match are left alone.
        transition: Runs whose latest transition had this id are left alone as well.
    """
    proposed = to_state_create(state)
    proposed.state_details.transition_id = transition or uuid4()
    body = {
        "flow_runs": {"id": {"any_": [str(run_id) for run_id in run_ids]}, **only},
        "state": proposed.model_dump(mode="json"),
    }
    # The client's list of addresses does not know this one.
    response = await client.request("POST", "/flow_runs/bulk_set_state", json=body)  # type: ignore[arg-type]
    results = _Answer.model_validate(response.json()).results
    return {
        it.flow_run_id: it.state
        for it in results
        if it.state and it.status == SetStateStatus.ACCEPT
    }


async def propose(state: State[Any], run: FlowRun) -> State[Any]:
    """Propose a state without data for a run that is executed; returns the one it has then.

    Raises what `prefect.utilities.engine.propose_state` raises: Abort and Pause where Prefect will
    not have it, httpx.HTTPError where its API is away. Abort also where somebody else has changed
    the state of a run that its worker woke without taking it.
    """
    if accepted := await _company(state, run).get(run.id):
        return accepted
    async with get_client() as client:
        if _is_only_woken(run):
            await require_unchanged(client, run)
        return await propose_state(client, state, flow_run_id=run.id)


def _is_only_woken(run: FlowRun) -> bool:
    return is_beside_others() and run.state is not None and run.state.is_scheduled()


async def require_unchanged(client: PrefectClient, run: FlowRun) -> None:
    """Raise Abort if the run, which its worker woke without taking it, is not as it was found.

    Prefect would have a run that somebody cancelled meanwhile wait again.
    """
    try:
        stored = await client.read_flow_run(run.id)
    except ObjectNotFound:
        raise Abort("The run was deleted.") from None
    if stored.state_id != run.state_id:
        raise Abort(f"The run is {stored.state_name} now.")


def _company(state: State[Any], run: FlowRun) -> Together[UUID, State[Any]]:
    """The runs that this state is proposed for at this moment, and that are where this one is."""
    only: dict[str, Any] = {"type": {"any_": [StateType.PENDING, StateType.RUNNING]}}
    if run.state and _is_only_woken(run):
        only = {"type": {"any_": [StateType.SCHEDULED]}, "name": {"any_": [run.state.name]}}
    likeness = f"{only} {to_state_create(state).model_dump_json()}"
    if likeness not in _companies:

        async def ask(run_ids: list[UUID]) -> dict[UUID, State[Any]]:
            async with get_client() as client:
                return await set_states(client, run_ids, state, {"state": only})

        _companies[likeness] = Together(ask, AT_ONCE)
    return _companies[likeness]
