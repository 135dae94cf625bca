"""The nights as they happen, line by line: for the terminal of the demo."""

import sys
import time

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort

from blocks.binding import Binding
from blocks.claim import Claim
from deployments.sandbox.client import SandboxClient

QUIET = {"Scheduled", "Late", "Pending", "Submitting"}
"""States on the way to something; only worth a line to who looks for them in the UI."""


class Watch:
    """Prints what changed since it looked last: steps, states, answers, seconds left."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seen: set[object] = set()
        self._last_event = 0
        self._counting = False

    def say(self, text: str) -> None:
        """One line, with the seconds since the start before it."""
        if self._counting:
            sys.stdout.write("\n")
            self._counting = False
        print(f"{time.monotonic() - self._began:6.1f}  {text}", flush=True)  # noqa: T201

    async def look(
        self, client: PrefectClient, sandbox: SandboxClient, binding: Binding
    ) -> list[FlowRun]:
        """Print what is new; returns the binding's runs, the earliest first."""
        runs = await client.read_flow_runs(
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[binding.slug])),
            sort=FlowRunSort.START_TIME_ASC,
        )
        runs.sort(key=lambda run: str(run.expected_start_time))
        for number, run in enumerate(runs, start=1):
            await self._steps(client, run, f"night {number}")
            self._state(run, f"night {number}")
        self.answers(sandbox)
        return runs

    def answers(self, sandbox: SandboxClient) -> None:
        """Print what the sandbox's servers answered."""
        for event in sandbox.events(self._last_event):
            self._last_event = event.number
            self.say(f"          {event.kind} answered {event.status}")

    async def _steps(self, client: PrefectClient, run: FlowRun, night: str) -> None:
        steps = await client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
            sort=TaskRunSort.END_TIME_DESC,
        )
        for step in reversed(steps):
            if step.state and step.state.is_final() and self._is_new(step.id):
                self.say(f"{night}   {step.name.rsplit('-', 1)[0]}: {step.state.name}")

    def _state(self, run: FlowRun, night: str) -> None:
        state = run.state
        if state is None or state.name in QUIET:
            return
        claim = Claim.in_message(state.message)
        until = claim.until if claim else state.state_details.scheduled_time
        if self._is_new((run.id, state.id)):
            said = f"until {until:%Y-%m-%d %H:%M:%S} UTC" if until else state.message
            self.say(f"{night} {state.name}" + (f": {said}" if said else ""))
        if until:
            self._count(run, max(0, round(until.timestamp() - time.time())))

    def _count(self, run: FlowRun, left: int) -> None:
        if self._is_new((run.id, run.state_name, left)):
            sys.stdout.write(f" {left}" if self._counting else f"                waits {left}")
            sys.stdout.flush()
            self._counting = True

    def _is_new(self, thing: object) -> bool:
        new = thing not in self._seen
        self._seen.add(thing)
        return new
