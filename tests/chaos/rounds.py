"""One round: some tenants configured for the same moment, one blow, and the verdict."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial

from blocks import clock
from deployments import journeys
from deployments.sandbox.client import SandboxClient
from flows.refusals import InvalidRequestError
from tests.chaos.arena import LEASE, Arena
from tests.chaos.blows import (
    Blow,
    ByHand,
    ClockStep,
    Kill,
    KillInWait,
    PoolPause,
    Slow,
    Suspension,
)
from tests.chaos.judge import Finding, Judge
from tests.chaos.patience import SETTLED_WITHIN, patiently
from tests.chaos.people import People
from tests.chaos.runs import CLOSE, CONFIGURE, Runs
from tests.chaos.trials import REPLICATION_DELAY, UPSTREAM_WAIT, Trial
from tests.chaos.troubles import Disturbance

WATCHED_AFTER = 3.0
"""Seconds in which a process that has woken could still do what it must not."""

STEPPED_FOR = 20.0
"""Seconds until a clock that was set to another time is set right: all of a round's waits."""


class Round:
    """Some trials that share an installation and a blow."""

    def __init__(  # noqa: PLR0913
        self,
        arena: Arena,
        sandbox: SandboxClient,
        trials: Sequence[Trial],
        blow: Blow,
        lease: float = LEASE,
        *,
        again: bool = False,
    ) -> None:
        self._arena, self._sandbox = arena, sandbox
        self._trials, self._blow, self._lease = trials, blow, lease
        self._again = again
        self._runs = Runs(clock.now(), self._settled_within)

    async def play(self) -> list[Finding]:
        """Configure, strike, put right, wait until all is quiet, and judge."""
        self._arena.struck.clear()
        self._prepare()
        mending = asyncio.create_task(self._mend())
        self._arm("configure")
        await self._start()
        await self._runs.end(CONFIGURE)
        if self._again:
            await self._start_again()
        self._arm("close")
        missed = await self._meddle()
        await self._runs.end(CLOSE)
        self._disarm()
        await self._mended(mending)
        judge = Judge(self._sandbox, self._arena.kills)
        findings = [await patiently(partial(judge.judge, trial)) for trial in self._trials]
        findings[0].wrong += missed
        return findings

    def _prepare(self) -> None:
        if isinstance(self._blow, Slow):
            seconds = self._blow.seconds
            self._sandbox.fault(self._blow.endpoint, "slow", count=1000, seconds=seconds)
        if isinstance(self._blow, Suspension):
            # So that there is something to suspend: a run that waits is not Running.
            self._sandbox.fault("token.refresh", "slow", count=1000, seconds=2)

    async def _mended(self, mending: asyncio.Task[None]) -> None:
        """What was struck is put right before anybody judges; and has a moment to do wrong."""
        if self._arena.struck.is_set():
            await mending
            await asyncio.sleep(WATCHED_AFTER)
            await self._runs.end(CONFIGURE)
            await self._runs.end(CLOSE)
        mending.cancel()
        with suppress(asyncio.CancelledError):
            await mending

    async def _start(self) -> None:
        first_run_at = self._soon()
        for trial in self._trials:
            try:
                await self._start_one(trial, first_run_at)
            except InvalidRequestError:  # the blow fell meanwhile, and took its time
                first_run_at = self._soon()
                await self._start_one(trial, first_run_at)

    async def _start_again(self) -> None:
        """All ask once more, now that the first is done: each has a grant that is replaced."""
        await self._start()
        for trial in self._trials:
            trial.is_configured_twice = True
        await self._runs.end(CONFIGURE)

    def _soon(self) -> datetime:
        lead = timedelta(seconds=10 + 1.5 * len(self._trials))
        return (clock.now() + lead).replace(microsecond=0)

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
        for _ in range(trial.journeys):  # of two, the later one stands
            token = self._sandbox.subject_token(tenant)
            trial.journey_id = await patiently(
                partial(journeys.start, request, token), self._settled_within
            )

    def _arm(self, phase: str) -> None:
        """Lay the round's trap, if it is one for this phase."""
        match self._blow:
            case Kill(target, moment) as blow if moment.phase == phase:
                wire = self._arena.prefect if moment.wire == "prefect" else self._arena.outside
                wire.traps.append(blow.trap(partial(self._arena.strike, target)))
            case Disturbance() as blow if blow.phase == phase:
                self._arena.prefect.traps.append(blow.trap(self._arena.cut_prefect_off))

    def _disarm(self) -> None:
        self._arena.prefect.traps.clear()
        self._arena.outside.traps.clear()

    async def _meddle(self) -> list[str]:
        """What falls on runs that wait, if that is the blow; what is wrong with how it went."""
        people = People(self._arena.stack, self._sandbox, self._trials, self._runs)
        match self._blow:
            case KillInWait(_, wait) | ClockStep(_, wait):
                return await self._strike_in(wait)
            case ByHand() as blow:
                return await people.run_by_hand(blow)
            case Suspension() as blow:
                return await people.suspend(blow)
            case PoolPause() as blow:
                return await people.pause_pool(blow)
        return []

    async def _strike_in(self, wait: str) -> list[str]:
        if not await self._runs.see(lambda run: run.state_name == wait):
            return [f"nobody was ever seen in {wait}"]
        match self._blow:
            case KillInWait(target):
                self._arena.strike(target)
            case ClockStep(seconds):
                self._arena.worker_clock.step(seconds)
                self._arena.struck.set()
        return []

    async def _mend(self) -> None:
        """Put right what the blow has broken, when it has lasted as long as it should."""
        while not self._arena.struck.is_set():  # noqa: ASYNC110  (set in the relays' thread)
            await asyncio.sleep(0.1)
        match self._blow:
            case Kill(target) | KillInWait(target):
                await asyncio.to_thread(self._arena.mend, target, self._lasts)
            case Disturbance(trouble):
                seconds = trouble.seconds or self._lasts
                await asyncio.to_thread(self._arena.let_prefect_return, seconds, self._lease / 2)
            case ClockStep():
                await asyncio.sleep(STEPPED_FOR)
                self._arena.worker_clock.step(0)

    @property
    def _lasts(self) -> float:
        return self._blow.leases * self._lease

    @property
    def _settled_within(self) -> float:
        """Seconds after the last blow, which may last, and after which others wait for a lease."""
        return SETTLED_WITHIN + self._lasts + 2 * self._lease
