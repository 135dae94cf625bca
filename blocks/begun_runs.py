"""The runs of a deployment that have begun and not ended, executed or not.

They outlive their deployment: Prefect deletes only runs that were never begun.
"""

from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled

from blocks.proposals import AT_ONCE, set_states

ENDED = "The binding was ended."
"""Why they are cancelled."""

UNFINISHED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED]
"""What is not over. A run that is being cancelled is left to who executes it."""

PAGE = 200


async def cancel(client: PrefectClient, deployment_id: UUID) -> list[FlowRun]:
    """Cancel the deployment's runs that have begun; returns those that had not ended meanwhile.

    One that is executed stops before its next request: before each it asks how it stands. Raises
    httpx.HTTPError where Prefect's API is away.
    """
    begun = [run for run in await _unfinished(client, deployment_id) if _has_begun(run)]
    cancelled: State[None] = Cancelled(message=ENDED)
    only = {"state": {"type": {"any_": UNFINISHED}}}
    stopped: set[UUID] = set()
    for first in range(0, len(begun), AT_ONCE):
        some = [run.id for run in begun[first : first + AT_ONCE]]
        stopped |= {*await set_states(client, some, cancelled, only)}
    return [run for run in begun if run.id in stopped]


async def _unfinished(client: PrefectClient, deployment_id: UUID) -> list[FlowRun]:
    found: list[FlowRun] = []
    kinds = FlowRunFilterStateType(any_=UNFINISHED)
    while page := await client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=kinds)),
        limit=PAGE,
        offset=len(found),
    ):
        found += page
    return found


def _has_begun(run: FlowRun) -> bool:
    return bool(run.run_count) or run.state_type != StateType.SCHEDULED
