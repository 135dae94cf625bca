"""What the states of a run tell of people: that they ended it, suspended it, asked for it again."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType

_ASKED_FOR = {"Scheduled", "AwaitingRetry", "Resuming"}
"""What Prefect and its people call a run that is to begin again. No wait of ours is called so."""


async def was_asked_for_again(run_id: UUID) -> bool:
    """Whether somebody had the run begin again after it had ended."""
    states = await _read(run_id)
    ended = [number for number, state in enumerate(states) if state.is_final()]
    return bool(ended) and any(_is_asked_for(state) for state in states[ended[0] :])


async def overwritten_stop(run_id: UUID) -> State[Any] | None:
    """The state by which somebody stopped the run, if only a proposal of ours came after it.

    Prefect sets the state of several runs in one request without a look at what became of each
    meanwhile.
    """
    states = await _read(run_id)
    stops = [
        number
        for number, state in enumerate(states)
        if state.type == StateType.PAUSED or state.is_final()
    ]
    if not stops or stops[-1] == len(states) - 1:
        return None
    was_resumed = any(_is_asked_for(state) for state in states[stops[-1] :])
    return None if was_resumed else states[stops[-1]]


def _is_asked_for(state: State[Any]) -> bool:
    return state.type == StateType.SCHEDULED and state.name in _ASKED_FOR


async def _read(run_id: UUID) -> Sequence[State[Any]]:
    async with get_client() as client:
        states = await client.read_flow_run_states(run_id)
    return sorted(states, key=lambda state: state.timestamp)
