"""How a worker claims runs for its process: many in one request to Prefect's API.

Prefect has no "claim it if it is still as I know it". But the request that sets the state of
several runs takes a filter, a run that is Pending or Running already cannot become Pending, and no
run makes the same transition twice in a row. So of two that claim a run, one gets it.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Pending, Running

from blocks import clock
from blocks.claim import Claim
from blocks.proposals import set_states
from flows.opening import upstream_done_at
from flows.waiting import WAIT_FOR_UPSTREAM, is_kept_in_memory, waiting_state

BEGINNING = UUID("5d0f6c2e-6a53-4b8e-9b11-2f1f5d0a7c41")
"""The transition of every run that begins: Prefect refuses one that a run has just made."""

_PENDING = {"state": {"type": {"any_": [StateType.PENDING]}}}


async def claim(client: PrefectClient, runs: Sequence[FlowRun], by: Claim) -> list[FlowRun]:
    """Claim those of the runs that are still due; returns them, in the state that says so.

    Args:
        client: Prefect's API.
        runs: No more than `blocks.proposals.AT_ONCE`, as a worker has found them.
        by: Whose they are to be.

    Raises httpx.HTTPError where Prefect's API is away; what was claimed then is found by recovery.
    """
    due: dict[str, Any] = {
        "state": {"type": {"any_": [StateType.SCHEDULED]}},
        "next_scheduled_start_time": {"before_": clock.now().isoformat()},
    }
    resumed = [run for run in runs if run.run_count]
    nightly = [run for run in runs if not run.run_count and run.auto_scheduled]
    # Prefect counts a deployment's runs against its limit where they become Pending.
    limited = [run for run in runs if not run.run_count and not run.auto_scheduled]

    claimed = await _set(client, resumed, Pending(name="Resuming", message=str(by)), due)
    pending = await _set(client, limited, Pending(message=str(by)), due)
    begun = await _set(client, pending, Running(message=str(by)), _PENDING)
    alike = [_set(client, *it, due, BEGINNING) for it in _by_first_state(nightly, by)]
    # All are waited for, also where one fails: what is claimed is executed or given back.
    answers = await asyncio.gather(*alike, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        begun += answer
    for run in begun:
        run.run_count = 1
    return claimed + begun


def _by_first_state(
    nightly: Sequence[FlowRun], by: Claim
) -> Iterable[tuple[list[FlowRun], State[Any]]]:
    """The runs by the state that they begin with: most wait for upstream from the beginning.

    That spares the server a change of state for each: what is done first is done in that state.
    """
    waits: dict[datetime | None, list[FlowRun]] = {}
    for run in nightly:
        moment = upstream_done_at(run)
        waits.setdefault(moment if moment and is_kept_in_memory(moment) else None, []).append(run)
    for moment, runs in waits.items():
        working: State[Any] = Running(message=str(by))
        yield runs, waiting_state(by, moment, WAIT_FOR_UPSTREAM) if moment else working


async def show_as_running(client: PrefectClient, run: FlowRun, by: Claim) -> None:
    """Have a claimed run that lasts be shown as Running: so people see it, and can suspend it."""
    await _set(client, [run], Running(message=str(by)), _PENDING)


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
    asked_at = clock.elapsed()
    states = await set_states(client, ids, state, only, transition=transition)
    for run in runs:
        if run.id in states:
            run.state = states[run.id]
            clock.compare(run.state.timestamp, asked_at=asked_at)
    return [run for run in runs if run.id in states]
