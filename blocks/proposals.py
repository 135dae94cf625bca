"""Proposes states of flow runs to Prefect's API: the same state for several runs in one request.

Runs that fall due together do the same together: they are taken, they begin, they wait for the same
moment. One request for each costs Prefect twice as much as one for all of them.
"""

import asyncio
from collections.abc import Collection
from typing import Any
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.states import to_state_create
from prefect.utilities.engine import propose_state
from pydantic import BaseModel

from blocks.places import is_beside_others

AT_ONCE = 50
"""Prefect's API takes no more in one request."""

GATHERED_FOR = 0.3
"""Seconds for which a proposal waits for company, where many runs are executed side by side."""

_EXECUTING = {"state": {"type": {"any_": [StateType.PENDING, StateType.RUNNING]}}}

_Waiting = dict[UUID, "asyncio.Future[State[Any] | None]"]

_gathered: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Waiting]] = WeakKeyDictionary()
_sending: set[asyncio.Task[None]] = set()


class _Result(BaseModel):
    flow_run_id: UUID
    status: SetStateStatus
    state: State[Any] | None


class _Answer(BaseModel):
    results: list[_Result]


async def set_states(
    client: PrefectClient, run_ids: Collection[UUID], state: State[Any], only: dict[str, Any]
) -> dict[UUID, State[Any]]:
    """Propose one state for up to AT_ONCE runs; what was accepted, by run.

    Args:
        client: Prefect's API.
        run_ids: The runs.
        state: The state, without data.
        only: A Prefect flow run filter besides: runs that it does not match are left alone.
    """
    proposed = to_state_create(state)
    proposed.state_details.transition_id = uuid4()
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


async def propose(state: State[Any], run_id: UUID) -> State[Any]:
    """Propose a state without data for a run that is executed; returns the one it has then.

    Raises what `prefect.utilities.engine.propose_state` raises: Abort and Pause where Prefect will
    not have it, httpx.HTTPError where its API is away.
    """
    if is_beside_others() and (accepted := await _in_company(state, run_id)):
        return accepted
    async with get_client() as client:
        return await propose_state(client, state, flow_run_id=run_id)


async def _in_company(state: State[Any], run_id: UUID) -> State[Any] | None:
    gathered = _gathered.setdefault(asyncio.get_running_loop(), {})
    likeness = to_state_create(state).model_dump_json()
    waiting = gathered.setdefault(likeness, {})
    answer: asyncio.Future[State[Any] | None] = asyncio.get_running_loop().create_future()
    waiting[run_id] = answer
    if len(waiting) == 1:
        sending = asyncio.create_task(_send(gathered, likeness, state))
        _sending.add(sending)
        sending.add_done_callback(_sending.discard)
    return await answer


async def _send(gathered: dict[str, _Waiting], likeness: str, state: State[Any]) -> None:
    await asyncio.sleep(GATHERED_FOR)
    waiting = gathered.pop(likeness)
    accepted: dict[UUID, State[Any]] = {}
    try:
        if 1 < len(waiting) <= AT_ONCE:
            async with get_client() as client:
                accepted = await set_states(client, waiting, state, _EXECUTING)
    finally:
        # Whoever was not accepted proposes alone, and learns why.
        for run_id, answer in waiting.items():
            if not answer.done():
                answer.set_result(accepted.get(run_id))
