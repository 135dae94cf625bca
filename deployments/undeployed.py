"""Runs whose deployment somebody deleted in Prefect: nobody can claim them, so they end."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging import get_logger
from prefect.states import Cancelled

from flows.night import DELETED
from flows.unopened import BRIEFLY, record_instead


async def end_undeployed(client: PrefectClient, runs: Sequence[FlowRun]) -> list[FlowRun]:
    """End those of these runs whose deployment is gone, and record their nights; returns them.

    One that cannot be ended holds up no other. Raises httpx.HTTPError where Prefect's API is away.
    """
    existing = await _existing(client, {run.deployment_id for run in runs if run.deployment_id})
    gone = [run for run in runs if run.deployment_id and run.deployment_id not in existing]
    ended = []
    for run in gone:
        try:
            await record_instead(run, "SKIPPED", DELETED, patience=BRIEFLY)
            cancelled: State[Any] = Cancelled(message=DELETED)
            await client.set_flow_run_state(run.id, cancelled, force=True)
        except Exception as error:  # noqa: BLE001  (whatever it is, the next run's turn comes)
            kind = type(error).__name__
            get_logger("undeployed").warning("Run %s is not ended (%s).", run.name, kind)
        else:
            ended.append(run)
    return ended


async def _existing(client: PrefectClient, ids: set[UUID]) -> set[UUID]:
    """Asked as a list: the 404 of a gateway whose server is being replaced is no evidence."""
    wanted = DeploymentFilter(id=DeploymentFilterId(any_=list(ids)))
    found = await client.read_deployments(deployment_filter=wanted, limit=200)
    return {deployment.id for deployment in found}
