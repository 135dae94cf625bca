"""What a configuration that ended half-way has left: taken back, so that nothing of it runs.

A journey that fails takes back itself what it did. One that somebody cancels, ends by hand or
deletes cannot, and one whose worker is killed then even less. So the grant remembers in whose place
it stands (`Grant.instead_of`) until its configuration is done, and whoever finds it later can tell:
the flow's own hook, the flow itself, or a worker that looks for what was left.

A batch whose nights went on before is not undone: they go on as they were, or as they were to.
"""

from contextlib import suppress
from typing import Any, Literal

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.flows import Flow

from blocks import caller_token, deployment, ownership, standing, systems
from blocks import grant as grants
from blocks.binding import Binding
from blocks.grant import Grant, GrantError
from blocks.lock import only_holder
from blocks.ownership import Work
from flows.waiting import PREFECT_TROUBLE

PATIENCE = 10.0
"""Seconds to wait for whoever configures the binding at the moment: a worker looks again."""


async def undo_cancelled(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001
    """The flow's hook: delete the cancelled journey's token, and take back what it did."""
    given = flow_run.parameters
    await caller_token.end_journey(given.get("access_token_block"))
    tenant_id, batch_id = given.get("tenant_id"), given.get("batch_id")
    if isinstance(tenant_id, str) and isinstance(batch_id, str):
        await undo(Binding(tenant_id, batch_id), str(flow_run.id))


async def undo(binding: Binding, journey_id: str) -> None:
    """Take back what this journey did, if it has ended without being done.

    Raises LockedError while the binding is being configured, and httpx.HTTPError where Prefect is
    away.
    """
    async with only_holder(f"configure-{binding.slug}", patience=PATIENCE):
        await undo_locked(binding, journey_id)


async def undo_locked(binding: Binding, journey_id: str) -> None:
    """The same, for who holds the lock `configure-<slug>`."""
    grant = await grants.find(binding)
    if grant is None or not _is_half_made(grant, journey_id) or not await has_ended(journey_id):
        return
    await deployment.pause(binding)
    await deployment.cancel_begun(binding)
    if grant.instead_of == "nothing":
        await deployment.delete(binding)
    # Last of what is stored: by it this is found again if it is interrupted.
    await grants.forget(binding, await systems.oauth_server())


async def undo_failed(binding: Binding) -> None:
    """Leave no grant behind that nobody would use, where a configuration fails.

    Without a schedule that runs that is the new one. With one, the nights go on with the new grant,
    and it is the replaced one.
    """
    server = await systems.oauth_server()
    scheduled = await standing.read(binding)
    if scheduled is None or scheduled.paused:
        await grants.forget(binding, server)
    else:
        await grants.revoke_replaced(binding, server)


async def leave(binding: Binding, journey_id: str | None) -> None:
    """Take back what this journey did, whose run is not this process's own any more.

    Nothing if it goes on elsewhere; and whatever stands in the way, a worker does it later. For who
    holds the lock `configure-<slug>`.
    """
    work = ownership.current()
    if work is None or journey_id is None:
        return
    with (
        suppress(*PREFECT_TROUBLE, GrantError, systems.NotSavedError),
        ownership.working(Work(work.lease)),
    ):
        await undo_locked(binding, journey_id)


async def abandon(grant: Grant) -> None:
    """Revoke a grant that nobody will use: its journey was ended while it was exchanged."""
    if work := ownership.current():
        with ownership.working(Work(work.lease)):  # the run is not its own any more, the lease is
            await grants.revoke(grant, await systems.oauth_server())


async def stands_before(binding: Binding) -> Literal["nothing", "stopped"] | None:
    """What a journey that begins now has to leave again: nothing that runs; None if nights do."""
    stands = await standing.read(binding)
    if stands is None:
        return "nothing"
    return "stopped" if stands.paused else None


async def has_ended(journey_id: str) -> bool:
    """Whether this run has ended without success, or Prefect says that there is none.

    Asked as a list: the 404 of a gateway whose server is being replaced is no evidence.
    """
    wanted = {"flow_runs": {"id": {"any_": [journey_id]}}}
    async with get_client() as client:
        found = (await client.request("POST", "/flow_runs/filter", json=wanted)).json()
    unsuccessful = {StateType.FAILED, StateType.CANCELLED, StateType.CRASHED}
    return all(run["state_type"] in unsuccessful for run in found)


def _is_half_made(grant: Grant, journey_id: str) -> bool:
    return grant.instead_of is not None and grant.journey_id == journey_id
