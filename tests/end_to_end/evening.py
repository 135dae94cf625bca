"""Four nights that fall due together, of which three are cancelled, each at another moment."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType

from deployments.sandbox.client import SandboxClient
from deployments.stack import Part, Stack
from tests.end_to_end.nights import Nights, due_together, until

REFRESH, HANG = 4.0, 60.0
"""Seconds that the OAuth server and the Orders API take for those who are cancelled meanwhile."""


@dataclass
class Evening:
    """The nights, by what they were doing when they were cancelled."""

    worker: Part
    left_alone: Nights
    refreshing: Nights
    waiting: Nights
    executing: Nights


@asynccontextmanager
async def evening(installation: Stack) -> AsyncIterator[Evening]:
    """An evening that is over: the night left alone is closed, and what the others miss is past."""
    # It looks as far ahead as it does by default: what is cancelled, it has seen coming before.
    worker = installation.start_worker("evening", PREFECT_WORKER_PREFETCH_SECONDS="10")
    try:
        await until("the worker to start", lambda: "started!" in worker.log.read_text())
        with SandboxClient(installation.sandbox_url) as sandbox:
            tonight = Evening(worker, *(Nights(sandbox) for _ in range(4)))
            await _play(tonight, sandbox)
            yield tonight
    finally:
        worker.stop()


async def _play(tonight: Evening, sandbox: SandboxClient) -> None:
    refreshing, executing = tonight.refreshing.binding, tonight.executing.binding
    sandbox.fault("token.refresh", "slow", tenant_id=refreshing.tenant_id, seconds=REFRESH)
    sandbox.fault("orders.prepareSnapshot", "slow", tenant_id=executing.tenant_id, seconds=HANG)
    everyone = [tonight.left_alone, tonight.refreshing, tonight.waiting, tonight.executing]
    # More than one night: a last one that is cancelled ends the binding.
    await due_together(everyone, upstream_wait=7, replication_delay=5, maxRuns=2)

    await until("all refreshes", lambda: all(nights.refreshes() for nights in everyone))
    await cancel(tonight.refreshing)
    await tonight.waiting.reach("WaitForUpstream")
    await cancel(tonight.waiting)
    # Its snapshot is taken at the same moment as the one that hangs.
    await tonight.left_alone.reach("ReplicationDelay")
    await cancel(tonight.executing)
    await tonight.left_alone.reach("Completed")


async def cancel(nights: Nights) -> None:
    """What the button in Prefect's UI does, and `prefect flow-run cancel`."""
    run, *_ = await nights.runs()
    async with get_client() as client:
        await client.set_flow_run_state(run.id, State(type=StateType.CANCELLING))
