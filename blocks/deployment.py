"""A binding's own Prefect deployment, with its one schedule.

One deployment for each binding, because changing one schedule of a shared deployment deletes the
runs not yet started of all its schedules: one tenant's clean-up would cost the others their close.
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentScheduleUpdate,
    DeploymentUpdate,
)
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import RRuleSchedule
from prefect.exceptions import ObjectNotFound

from blocks import begun_runs, clock
from blocks.binding import Binding
from blocks.ownership import require_lease

FLOW = "daily-close"
TEMPLATE = "daily-orders-batch-close"
SCHEDULE_SLUG = "nightly"
FAR_AHEAD = timedelta(days=36_525)

COPIED = (
    "entrypoint",
    "path",
    "pull_steps",
    "version",
    "work_pool_name",
    "work_queue_name",
    "job_variables",
    "parameter_openapi_schema",
    "enforce_parameter_schema",
    "description",
)
"""Where the code is and where it runs: what a binding's deployment takes from the template."""


class ScheduleError(Exception):
    """A binding's schedule could not be set up."""


class NotDeployedError(ScheduleError):
    """The template that every binding's deployment copies does not exist."""


class NotLaidOutError(ScheduleError):
    """Prefect accepted the schedule, but its next occurrence does not stand as a run."""


async def find(binding: Binding) -> DeploymentResponse | None:
    """The binding's deployment, or None before it is configured."""
    async with get_client() as client:
        return await _find(client, binding.slug)


async def upsert(
    binding: Binding, schedule: RRuleSchedule, parameters: dict[str, Any], *, first: datetime
) -> None:
    """Create or update the binding's deployment and lay out its runs from `first` on.

    Raises NotDeployedError without a template, and NotLaidOutError if the run at `first` does not
    exist afterwards; a deployment that did not exist before does not exist then either. Before each
    change OwnershipLostError and OwnershipUnknownError.
    """
    async with get_client() as client:
        template = await read_template(client)
        existing = await _find(client, binding.slug)
        if existing:
            await _update(client, existing.id, template, schedule, parameters)
            await _ensure_run(client, existing.id, binding, first)
            return
        deployment_id = await _create(client, template, binding, schedule, parameters)
        try:
            await _ensure_run(client, deployment_id, binding, first)
        except Exception:
            await require_lease()
            await client.delete_deployment(deployment_id)
            raise


async def adopt(
    client: PrefectClient, binding_deployment: DeploymentResponse, template: DeploymentResponse
) -> None:
    """Bring one binding's deployment to the template's code, keeping its schedule and its runs."""
    # Updating a deployment deletes its runs of the future. Those that fall due before they are
    # laid out again would never come back, so laying out starts before the update.
    before = clock.now() - timedelta(seconds=1)
    tags = dict.fromkeys([*binding_deployment.tags, *template.tags])
    update = DeploymentUpdate(**_copied_from(template), tags=list(tags))
    await client.update_deployment(binding_deployment.id, update)
    if not binding_deployment.paused:
        await _lay_out(client, binding_deployment.id, before)


async def pause(binding: Binding) -> None:
    """Stop the binding's schedule; its page and history stay.

    Raises OwnershipLostError and OwnershipUnknownError.
    """
    async with get_client() as client:
        if found := await _find(client, binding.slug):
            await require_lease()
            await client.pause_deployment(found.id)


async def cancel_begun(binding: Binding) -> list[FlowRun]:
    """Cancel the binding's runs that have begun and not ended, executed or not; returns them.

    One that is executed stops before its next request: before each it asks how it stands.
    """
    async with get_client() as client:
        found = await _find(client, binding.slug)
        return await begun_runs.cancel(client, found.id) if found else []


async def delete(binding: Binding) -> None:
    """Remove the binding's deployment and the runs that have not begun; cancel those that have.

    They would outlive it: Prefect deletes only runs that were never begun.
    """
    async with get_client() as client:
        if found := await _find(client, binding.slug):
            await begun_runs.cancel(client, found.id)
            await client.delete_deployment(found.id)


async def read_template(client: PrefectClient) -> DeploymentResponse:
    """The deployment that prefect.yaml describes; raises NotDeployedError where there is none."""
    template = await _find(client, TEMPLATE)
    if template is None:
        raise NotDeployedError(f"{FLOW}/{TEMPLATE} is not deployed: run `prefect deploy --all`.")
    return template


async def _find(client: PrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return await client.read_deployment_by_name(f"{FLOW}/{name}")
    except ObjectNotFound:
        return None


async def _create(
    client: PrefectClient,
    template: DeploymentResponse,
    binding: Binding,
    schedule: RRuleSchedule,
    parameters: dict[str, Any],
) -> UUID:
    await require_lease()
    return await client.create_deployment(
        flow_id=template.flow_id,
        name=binding.slug,
        schedules=[DeploymentScheduleCreate(schedule=schedule, slug=SCHEDULE_SLUG)],
        parameters=parameters,
        tags=[*template.tags, f"tenant:{binding.tenant_id}", f"batch:{binding.batch_id}"],
        **_copied_from(template),
    )


async def _update(
    client: PrefectClient,
    deployment_id: UUID,
    template: DeploymentResponse,
    schedule: RRuleSchedule,
    parameters: dict[str, Any],
) -> None:
    # The schedule's slug makes this an update in place. Creating the deployment again under the
    # same name would delete its schedule and, with it, the identity of runs already laid out.
    update = DeploymentUpdate(
        paused=False,
        schedules=[DeploymentScheduleUpdate(schedule=schedule, slug=SCHEDULE_SLUG, active=True)],
        parameters=parameters,
        **_copied_from(template),
    )
    await require_lease()
    await client.update_deployment(deployment_id, update)


def _copied_from(template: DeploymentResponse) -> dict[str, Any]:
    return {field: getattr(template, field) for field in COPIED}


async def _lay_out(client: PrefectClient, deployment_id: UUID, start: datetime) -> None:
    # Left to itself the scheduler takes up to a minute, and looks no more than 100 days ahead: a
    # first run beyond that, once deleted, would be gone for months. It stops after a few anyway.
    end = max(start, clock.now() + FAR_AHEAD)
    await require_lease()
    await client.request(
        "POST",
        "/deployments/{id}/schedule",
        path_params={"id": deployment_id},
        json={"start_time": start.isoformat(), "end_time": end.isoformat()},
    )


async def _ensure_run(
    client: PrefectClient, deployment_id: UUID, binding: Binding, moment: datetime
) -> None:
    await _lay_out(client, deployment_id, moment)
    runs = await client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id])),
        flow_run_filter=FlowRunFilter(
            expected_start_time=FlowRunFilterExpectedStartTime(after_=moment, before_=moment)
        ),
        limit=1,
    )
    if not runs:
        raise NotLaidOutError(
            f"Prefect did not lay out the run of {moment.isoformat()} for {binding}:"
            " check the Prefect server, then configure it again."
        )
