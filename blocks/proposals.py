"""Proposes states of flow runs to Prefect's API: the same state for several runs in one request."""

from collections.abc import Collection
from typing import Any
from uuid import UUID, uuid4, uuid5

from cachetools import LRUCache
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound
from prefect.states import to_state_create
from prefect.utilities.engine import propose_state
from pydantic import BaseModel

from blocks.lease import OwnershipLostError
from blocks.places import is_beside_others
from blocks.together import Together

AT_ONCE = 50
"""Prefect's API takes no more in one request."""

EXECUTED = {"state": {"type": {"any_": [StateType.PENDING, StateType.RUNNING]}}}
"""The runs that some process executes, as a filter of Prefect's."""

ENDED_WITHIN = 1.0
"""Seconds for which runs that end alike are gathered: to the second that they closed in."""

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
        state: The state.
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


async def set_state_beside_others(
    client: PrefectClient, run_id: UUID, state: State[Any]
) -> State[Any] | None:
    """Set a state of an executed run, in one request with the runs that are set to the same.

    Returns the state, or None where the run is not executed any more.
    """
    if accepted := await _company(state).get(run_id, has_place=True):
        return accepted
    return (await set_states(client, [run_id], state, EXECUTED)).get(run_id)


async def propose(state: State[Any], run: FlowRun) -> State[Any]:
    """Propose a state for a run that is executed; returns the one it has then.

    Raises OwnershipLostError where it is not executed any more, because somebody cancelled,
    suspended or deleted it, and httpx.HTTPError where Prefect's API is away. Under Prefect's own
    engine also what `prefect.utilities.engine.propose_state` raises.
    """
    if accepted := await _company(state).get(run.id):
        return accepted
    async with get_client() as client:
        if not is_beside_others():
            return await propose_state(client, state, flow_run_id=run.id)
        # The same each time: one whose answer was lost is known again by it.
        transition = uuid5(run.id, f"{state.name}: {state.message}")
        states = await set_states(client, [run.id], state, EXECUTED, transition=transition)
        return states.get(run.id) or await _state_after_lost_answer(client, transition, run, state)


async def _state_after_lost_answer(
    client: PrefectClient, transition: UUID, run: FlowRun, proposed: State[Any]
) -> State[Any]:
    """The run's state, if it is the proposed one: the answer to a first attempt was lost."""
    try:
        stored = (await client.read_flow_run(run.id)).state
    except ObjectNotFound:
        raise OwnershipLostError("The run was deleted.") from None
    if stored and stored.state_details.transition_id == transition:
        return stored
    # In one request with others: what a run ends with is the last that is said of it.
    is_same = stored and (stored.name, stored.message) == (proposed.name, proposed.message)
    if stored and is_same and proposed.is_final():
        return stored
    raise OwnershipLostError(f"The run is {stored and stored.name} now.")


def _company(state: State[Any]) -> Together[UUID, State[Any]]:
    """The runs that this state is proposed for at this moment."""
    likeness = to_state_create(state).model_dump_json()
    if likeness not in _companies:

        async def ask(run_ids: list[UUID]) -> dict[UUID, State[Any]]:
            async with get_client() as client:
                return await set_states(client, run_ids, state, EXECUTED)

        gathered_for = ENDED_WITHIN if state.is_final() else None
        _companies[likeness] = Together(ask, AT_ONCE, gathered_for)
    return _companies[likeness]
