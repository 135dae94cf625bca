"""Journeys as the tests see them: begun by a caller, executed by a worker, killed in between."""

from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Abort, Pause
from prefect.flow_engine import run_flow_async
from prefect.states import Scheduled

from deployments import journeys
from flows.configure import configure
from tests.flows.batch import Batch


class Killed(BaseException):
    """What ends a process at once, as far as a test can."""

    @classmethod
    async def at_once(cls, *_: object, **__: object) -> NoReturn:
        """In place of whatever is killed."""
        raise cls


class Journeys:
    """The journeys of one batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._first = (batch.clock() + timedelta(days=1)).replace(microsecond=0)

    async def start(self, *, key: str | None = None, **changed: Any) -> FlowRun:
        """Begin one; returns its run."""
        token = self.batch.sandbox.subject_token(self.batch.binding.tenant_id)
        journey_id = await journeys.start(self.wanted(**changed), token, idempotency_key=key)
        async with get_client() as client:
            return await client.read_flow_run(journey_id)

    def wanted(self, **changed: Any) -> dict[str, Any]:
        """A request for three nights from tomorrow on."""
        return {
            "tenantId": self.batch.binding.tenant_id,
            "batchId": self.batch.binding.batch_id,
            "firstRunAt": self._first.isoformat(),
            "interval": "P1D",
            "maxRuns": 3,
            **changed,
        }

    async def work(self, run: FlowRun) -> FlowRun:
        """Have a worker execute it, from its first line on, until it ends, waits or is killed."""
        async with get_client() as client:
            await client.set_flow_run_state(run.id, Scheduled(scheduled_time=None), force=True)
            run = await client.read_flow_run(run.id)
            with suppress(Abort, Pause, Killed):
                await run_flow_async(
                    configure, flow_run=run, parameters=run.parameters, return_type="state"
                )
            return await client.read_flow_run(run.id)
