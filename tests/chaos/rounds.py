"""One round: some tenants configured for the same moment, one blow, and the verdict."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType

from blocks import clock
from blocks.caller_token import CallerTokenError
from deployments import journeys
from deployments.sandbox.client import SandboxClient
from tests.chaos.arena import Arena
from tests.chaos.blows import Blow, Disturbance, Kill, KillInWait
from tests.chaos.judge import Finding, Judge
from tests.chaos.relay import Trap
from tests.chaos.trials import REPLICATION_DELAY, UPSTREAM_WAIT, Trial

SETTLED_WITHIN = 150.0
"""Seconds after the last blow: two minutes, and half of one for a busy machine."""

ALIVE = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
Answer = TypeVar("Answer")


class Round:
    """Some trials that share an installation and a blow."""

    def __init__(
        self, arena: Arena, sandbox: SandboxClient, trials: Sequence[Trial], blow: Blow | None
    ) -> None:
        self._arena, self._sandbox = arena, sandbox
        self._trials, self._blow = trials, blow
        self._began = clock.now()

    async def play(self) -> list[Finding]:
        """Configure, strike, put right, wait until all is quiet, and judge."""
        self._arena.struck.clear()
        mending = asyncio.create_task(self._mend())
        self._arm("configure")
        await self._start()
        await self._quiet(journeys.DEPLOYMENT.partition("/")[0])
        self._arm("close")
        missed = await self._strike_in_wait()
        await self._quiet("daily-close")
        self._disarm()
        mending.cancel()
        with suppress(asyncio.CancelledError):
            await mending
        judge = Judge(self._sandbox, self._arena.kills)
        findings = [await patiently(partial(judge.judge, trial)) for trial in self._trials]
        findings[0].wrong += missed
        return findings

    async def _start(self) -> None:
        lead = timedelta(seconds=10 + 1.5 * len(self._trials))
        first_run_at = (clock.now() + lead).replace(microsecond=0)
        for trial in self._trials:
            await self._start_one(trial, first_run_at)

    async def _start_one(self, trial: Trial, first_run_at: datetime) -> None:
        tenant, batch = trial.binding.tenant_id, trial.binding.batch_id
        if fault := trial.fault:
            self._sandbox.fault(fault.endpoint, fault.kind, tenant_id=tenant, **fault.details)
        self._sandbox.plan(
            tenant,
            batch,
            [first_run_at],
            upstream_wait=UPSTREAM_WAIT,
            replication_delay=REPLICATION_DELAY,
        )
        request = trial.request(first_run_at)
        token = self._sandbox.subject_token(tenant)
        trial.journey_id = await patiently(partial(journeys.start, request, token))

    def _arm(self, phase: str) -> None:
        """Lay the round's trap, if it is one for this phase."""
        match self._blow:
            case Kill(target, moment, side, nth) if moment.phase == phase:
                wire = self._arena.prefect if moment.wire == "prefect" else self._arena.outside
                trap = Trap(
                    moment.matches,
                    "act_before" if side == "before" else "act_after",
                    first=nth,
                    last=nth,
                    act=partial(self._arena.strike, target),
                    cut=target in {"worker", "both"},
                )
                wire.traps.append(trap)
            case Disturbance() as blow if blow.phase == phase:
                if blow.trouble.effect == "away":
                    self._arena.struck.set()
                else:
                    self._arena.prefect.traps.append(blow.trap())

    def _disarm(self) -> None:
        self._arena.prefect.traps.clear()
        self._arena.outside.traps.clear()

    async def _strike_in_wait(self) -> list[str]:
        """Strike while somebody waits, if that is the blow; what is wrong if nobody ever does."""
        if not isinstance(self._blow, KillInWait):
            return []
        deadline = time.monotonic() + SETTLED_WITHIN
        while time.monotonic() < deadline:
            alive = await self._alive("daily-close")
            if any(run.state_name == self._blow.wait for run in alive):
                self._arena.strike(self._blow.target)
                return []
            if not alive:
                break
            await asyncio.sleep(0.3)
        return [f"nobody was ever seen in {self._blow.wait}"]

    async def _mend(self) -> None:
        """Put right what the blow has broken, as soon as it has fallen."""
        while not self._arena.struck.is_set():  # noqa: ASYNC110  (set in the relays' thread)
            await asyncio.sleep(0.1)
        match self._blow:
            case Kill(target) | KillInWait(target):
                await asyncio.to_thread(self._arena.mend, target)
            case Disturbance(trouble):
                self._arena.prefect.away = True
                await asyncio.sleep(trouble.seconds)
                self._arena.prefect.away = False

    async def _quiet(self, flow: str) -> None:
        """Return when no run of this flow is left to go on, or when that takes too long."""
        deadline = time.monotonic() + SETTLED_WITHIN
        while await self._alive(flow):
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(1)

    async def _alive(self, flow: str) -> list[FlowRun]:
        """This round's runs of the flow that have not ended."""

        async def ask() -> list[FlowRun]:
            async with get_client() as client:
                return await client.read_flow_runs(
                    flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
                    flow_run_filter=FlowRunFilter(
                        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(ALIVE))),
                        expected_start_time=FlowRunFilterExpectedStartTime(after_=self._began),
                    ),
                )

        return await patiently(ask)


async def patiently(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask until the Prefect server answers: it may be down, that is what this is about."""
    deadline = time.monotonic() + SETTLED_WITHIN
    while True:
        try:
            return await ask()
        except (httpx.HTTPError, CallerTokenError):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.5)
