"""One tenant's batch as the tests see it, and the clock that they set."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_async
from prefect.states import Scheduled
from pydantic import SecretStr

from blocks import caller_token, context, deployment, grant, systems
from blocks.binding import Binding
from blocks.caller_token import CallerTokenError
from blocks.context import Context
from blocks.grant import Grant, GrantMissingError
from blocks.oauth import GrantLostError
from deployments.sandbox.client import SandboxClient
from deployments.sandbox.shapes import Close, Endpoint, Event
from flows.configure import configure
from flows.daily_close import daily_close


class SettableClock:
    """Stands where the project looks at the clock; may be moved, and goes on from there."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        """What the project sees."""
        return datetime.now(UTC) + self.ahead

    def move_to(self, moment: datetime) -> None:
        """Let it be this moment now."""
        self.ahead = moment - datetime.now(UTC)


class Batch:
    """One tenant's batch: configured by a caller, run by Prefect, looked at from outside."""

    def __init__(self, binding: Binding, sandbox: SandboxClient, clock: SettableClock) -> None:
        self.binding = binding
        self.sandbox = sandbox
        self.clock = clock
        self.caller_block = ""

    async def configure(self, **changed: Any) -> State[Any]:
        """Configure it with a new token of the caller's; unless changed, from tomorrow on."""
        state: State[Any] = await configure(**await self._form(changed), return_state=True)
        return state

    async def _form(self, changed: dict[str, Any]) -> dict[str, Any]:
        tomorrow = (self.clock() + timedelta(days=1)).replace(microsecond=0)
        token = self.sandbox.subject_token(self.binding.tenant_id)
        self.caller_block = await caller_token.hand_over(SecretStr(token))
        form = {
            "tenant_id": self.binding.tenant_id,
            "batch_id": self.binding.batch_id,
            "first_run_at": tomorrow.isoformat(),
            "interval": "P1D",
            "max_runs": 3,
            "access_token_block": self.caller_block,
        }
        return form | changed

    async def configure_past(
        self, *, first_due: timedelta = timedelta(minutes=1), **changed: Any
    ) -> None:
        """Have it configured an hour before a first night that was due this long ago."""
        first = (datetime.now(UTC) - first_due).replace(microsecond=0)
        self.clock.move_to(first - timedelta(hours=1))
        waits = {"upstream_wait_duration": "PT1S", "replication_delay_duration": "PT0.01S"}
        form = await self._form({"first_run_at": first.isoformat(), **waits, **changed})
        state = await configure.fn(**form)  # not as a run of its own: that takes its time
        assert state.is_completed(), state.message
        self.clock.ahead = timedelta(0)

    async def run_by_hand(self) -> State[Any]:
        """Run the daily close from Python, as an operator might."""
        ids = (self.binding.tenant_id, self.binding.batch_id)
        state: State[Any] = await daily_close(*ids, return_state=True)
        return state

    async def run_night(self, number: int = 1) -> FlowRun:
        """Have a worker begin the run that the schedule laid out for this night."""
        return await self.wake(await self.night(number))

    async def wake(self, run: FlowRun) -> FlowRun:
        """Have a worker execute the run up to its end or its next wait, due or not."""
        async with get_client() as client:
            await client.set_flow_run_state(run.id, Scheduled(scheduled_time=None), force=True)
            run = await client.read_flow_run(run.id)
            with suppress(Pause):  # as the worker does
                await run_flow_async(
                    daily_close, flow_run=run, parameters=run.parameters, return_type="state"
                )
            return await client.read_flow_run(run.id)

    async def nights(self) -> list[FlowRun]:
        """The runs of its deployment, in the order of their scheduled moments."""
        found = await self.deployment()
        async with get_client() as client:
            return await client.read_flow_runs(
                deployment_filter=DeploymentFilter(
                    id=DeploymentFilterId(any_=[found.id] if found else [])
                ),
                sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            )

    async def night(self, number: int) -> FlowRun:
        """The run of the night with this number, from 1 on."""
        return (await self.nights())[number - 1]

    async def deployment(self) -> DeploymentResponse | None:
        """Its deployment in Prefect."""
        return await deployment.find(self.binding)

    async def is_paused(self) -> bool:
        """Whether Prefect starts no more nights of it."""
        found = await self.deployment()
        assert found is not None
        return bool(found.paused)

    async def context(self) -> Context:
        """What is stored from night to night."""
        return await context.load(self.binding)

    async def history(self) -> dict[int | None, str]:
        """The nights that people are shown: the run's number and how it ended."""
        return {row["run"]: row["status"] for row in await self.rows()}

    async def rows(self) -> list[dict[str, Any]]:
        """The history as it is stored."""
        artifact = await Artifact.aget(f"nights-{self.binding.slug}")
        assert artifact is not None
        assert isinstance(artifact.data, str)
        return json.loads(artifact.data)

    async def shown_in(self) -> UUID:
        """The artifact that its history is stored in."""
        artifact = await Artifact.aget(f"nights-{self.binding.slug}")
        assert artifact is not None
        return artifact.id

    async def grant(self) -> Grant | None:
        """Its stored grant."""
        try:
            return await grant.load(self.binding)
        except GrantMissingError:
            return None

    async def is_configured(self) -> bool:
        """Whether anything is stored of it."""
        return bool(await self.deployment() or await self.grant())

    async def caller_token_is_stored(self) -> bool:
        """Whether the token that the caller handed over last is still there."""
        try:
            await caller_token.take(self.caller_block)
        except CallerTokenError:
            return False
        return True

    def closes(self) -> list[Close]:
        """Its closes, as the Orders API counted them."""
        return self.sandbox.closes(self.binding.tenant_id, self.binding.batch_id)

    def requests(self, kind: Endpoint) -> list[Event]:
        """What the sandbox was asked for its tenant, and how it answered."""
        asked = [event for event in self.sandbox.events() if event.kind == kind]
        return [event for event in asked if event.tenant_id == self.binding.tenant_id]


async def is_alive(refresh_token: SecretStr) -> bool:
    """Whether the OAuth server still takes this refresh token; finding out uses it up."""
    try:
        await (await systems.oauth_server()).refresh(refresh_token)
    except GrantLostError:
        return False
    return True
