"""Runs that a dead worker left `Pending` or `Running` are given back, for any worker to go on.

Open-source Prefect leaves them so for ever. Going on with one is safe: every effect of the flows is
safe to repeat.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, Worker
from prefect.exceptions import Abort
from prefect.logging import get_logger
from prefect.states import Scheduled
from prefect.utilities.engine import propose_state

from blocks import clock
from blocks.proposals import AT_ONCE, require_unchanged
from deployments.owner import Owner

SILENT_FOR = timedelta(seconds=40)
"""A worker that has not been heard of for this long, four heartbeats, is taken for dead."""

KEPT_AT_MOST = timedelta(minutes=6)
"""After its moment, a run is left to the living worker that kept it for so long."""

AHEAD = timedelta(minutes=1)
"""How much earlier than its occurrence a run that was given back stands in the queue."""


async def recover(
    client: PrefectClient, pool: str, me: Owner, executing: Collection[UUID]
) -> list[FlowRun]:
    """Give back the pool's runs whose worker is dead; returns them.

    Args:
        client: Prefect's API.
        pool: The work pool whose runs are looked at.
        me: The worker that asks. What is its own and not executing was left by an API failure.
        executing: The runs that it has taken and not ended, and any it takes in the meantime.
    """
    taken = await client.read_flow_runs(
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(
                type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])
            )
        ),
    )
    others = [run for run in taken if run.id not in executing]
    if not others:
        return []
    living = _living(await client.read_workers_for_work_pool(pool)) - {me.worker}
    left = [run for run in others if (owner := Owner.of(run)) and owner.worker not in living]
    for run in left:
        await give_back(client, run, f"{Owner.of(run)} died")
    return left


async def nobodys(
    client: PrefectClient, pool: str, me: Owner, found: Sequence[FlowRun]
) -> list[FlowRun]:
    """Those of the runs that were found waiting which no other living worker of the pool keeps.

    Each that has begun before comes with its state, which says so.
    """
    found = await _with_states(client, found)
    kept = [run for run in found if _is_kept_by_another(run, me)]
    if not kept:
        return list(found)
    living = _living(await client.read_workers_for_work_pool(pool))
    left = {run.id for run in kept if (keeper := Owner.keeping(run)) and keeper.worker in living}
    return [run for run in found if run.id not in left]


async def _with_states(client: PrefectClient, found: Sequence[FlowRun]) -> list[FlowRun]:
    """The runs as they are stored: what Prefect tells a worker that polls has no state."""
    bare = [run.id for run in found if run.run_count and run.state is None]
    stored: dict[UUID, FlowRun] = {}
    for first in range(0, len(bare), AT_ONCE):
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=bare[first : first + AT_ONCE]))
        stored |= {run.id: run for run in await client.read_flow_runs(flow_run_filter=wanted)}
    whole = [stored.get(run.id, run) for run in found]
    return [run for run in whole if not run.run_count or (run.state and run.state.is_scheduled())]


def _is_kept_by_another(run: FlowRun, me: Owner) -> bool:
    keeper, due = Owner.keeping(run), run.next_scheduled_start_time
    if keeper is None or keeper.worker == me.worker or due is None:
        return False
    return clock.now() - due < KEPT_AT_MOST


async def give_back(client: PrefectClient, run: FlowRun, why: str) -> None:
    """Schedule the run to go on at once, on whichever worker is free."""
    get_logger("recovery").warning("Run %s goes on: %s.", run.name, why)
    # Ahead of runs that have not begun: it may have been killed with a rotated refresh token, and a
    # server that forgives a repeated one does so for some seconds only.
    ahead = (run.expected_start_time or clock.now()) - AHEAD
    state: State[None] = Scheduled(name="HandedOver", message=why, scheduled_time=ahead)
    with suppress(Abort):  # somebody cancelled or deleted it in the meantime
        if run.state and run.state.is_scheduled():
            await require_unchanged(client, run)
        await propose_state(client, state, flow_run_id=run.id)


def _living(workers: list[Worker]) -> set[str]:
    """The workers heard of lately, by the server's clock and not by this machine's."""
    beats = {w.name: w.last_heartbeat_time for w in workers if w.last_heartbeat_time}
    latest = max(beats.values(), default=None)
    return {name for name, beat in beats.items() if latest and latest - beat < SILENT_FOR}
