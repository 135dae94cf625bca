"""All tenants fall due at the same moment: one run of it, from nothing to its figures."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TERMINAL_STATES
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.calls import Calls, Since
from benchmarks.installation import ACCESS_LOG, COUNTED, Installation, installed, with_worker
from benchmarks.judge import judge
from benchmarks.memory import memory
from benchmarks.meter import machine_cpu
from benchmarks.outcome import Outcome, Stampede
from benchmarks.profiler import profiled
from benchmarks.set_up import SetUp, SetUpTooSlowError, set_up
from benchmarks.ways import REPLICATION_DELAY, UPSTREAM_WAIT
from blocks import clock
from deployments.prefect_client import shared_prefect_client
from deployments.sandbox.client import SandboxClient
from deployments.sandbox.shapes import Verdict

JUST_BEFORE = timedelta(seconds=12)
"""A worker looks ten seconds ahead, and the process worker starts its processes then."""

IDLE = timedelta(seconds=5)
"""How long the installation is watched while nothing is due, right before that."""

LOOK_EVERY = 15
"""Seconds, until all are closed, between two questions to Prefect whether it has given some up."""

QUIET_SECONDS = 10.0
PATIENCE, PATIENCE_EACH = 240.0, 5.0
"""Seconds for all, and for each tenant. What is not closed by then is lost."""


@dataclass
class Clocks:
    """What the CPU clocks of the parts and of the machine show at a moment."""

    parts: dict[str, float]
    machine: float
    at: float = field(default_factory=time.monotonic)


def play(stampede: Stampede, *, keep: bool = False) -> Outcome:
    """Run it; `keep` leaves the logs, and says where.

    Once more where setting up took too long, when nothing was measured yet.
    """
    try:
        return _play_once(stampede, keep=keep)
    except SetUpTooSlowError as slow:
        print(f"{stampede}: once more. {slow}", flush=True)  # noqa: T201
        return _play_once(stampede, keep=keep)


def _play_once(stampede: Stampede, *, keep: bool) -> Outcome:
    home = Path(tempfile.mkdtemp(prefix="daily-orders-bench-"))
    try:
        return asyncio.run(_play(stampede, home))
    finally:
        if keep:
            print(f"kept: {home}", flush=True)  # noqa: T201
        else:
            shutil.rmtree(home, ignore_errors=True)


async def _play(stampede: Stampede, home: Path) -> Outcome:
    settings = ACCESS_LOG if stampede.count_calls else {}
    with (
        installed(home, stampede.database, stampede.way, **settings) as running,
        temporary_settings({PREFECT_API_URL: running.api_url}),
    ):
        installation = await with_worker(running, stampede.way, stampede.rotation)
        with SandboxClient(running.sandbox_url) as sandbox:
            tenants = [f"tenant-{number:05}" for number in range(stampede.tenants)]
            async with shared_prefect_client():  # as the Journeys API does
                ready = await set_up(stampede.way, sandbox, tenants)
            with installation.meter.sampling():
                before = sandbox.verdict()
                return await Round(
                    stampede, installation, sandbox, tenants, ready, before
                ).measure()


@dataclass
class Round:
    """One stampede of tenants who are set up for it."""

    stampede: Stampede
    installation: Installation
    sandbox: SandboxClient
    tenants: Sequence[str]
    ready: SetUp
    before: Verdict

    async def measure(self) -> Outcome:
        """From a little before the moment until all is settled."""
        await _until(self.ready.due - JUST_BEFORE - IDLE)
        resting = _read(self.installation)
        await _until(self.ready.due - JUST_BEFORE)
        log = Since(self.installation.server.log, self.installation.stack)
        began = _read(self.installation)
        async with profiled(self.installation, self.stampede.profile):
            await self._kill()
            settled = await self._settle()
        ended = _read(self.installation)
        calls = await log.count(self.ready.due) if self.stampede.count_calls else None
        return self._outcome(resting, began, ended, settled=settled, calls=calls)

    async def _kill(self) -> None:
        """Kill the worker when half of the tenants have refreshed, and when half have closed."""
        for number, wave in enumerate(("refreshed", "closed")[: self.stampede.kills], start=2):
            async with asyncio.timeout(PATIENCE + PATIENCE_EACH * len(self.tenants)):
                while self._so_far(wave) < len(self.tenants) / 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            self.installation.replace_worker(f"worker-{number}")

    async def _settle(self) -> bool:
        """Wait until every close is recorded; False if some never are."""
        for second in range(int(PATIENCE + PATIENCE_EACH * len(self.tenants))):
            await asyncio.sleep(1)
            all_closed = self._so_far("closed") >= len(self.tenants)
            if self.stampede.count_calls and all_closed:
                await asyncio.sleep(QUIET_SECONDS)
                return True
            # To ask Prefect costs what is being measured. Where its calls are counted: not at all.
            seldom = second % LOOK_EVERY == 0 and not self.stampede.count_calls
            with suppress(httpx.HTTPError):  # a server that is asked too much is asked again
                if (all_closed or seldom) and not await _unsettled(self.ready.due):
                    return True
        return False

    def _so_far(self, what: str) -> int:
        """How many of the tenants; the sandbox has counted those of the rehearsal, too."""
        return int(getattr(self.sandbox.verdict(), what)) - int(getattr(self.before, what))

    def _outcome(
        self, resting: Clocks, began: Clocks, ended: Clocks, *, settled: bool, calls: Calls | None
    ) -> Outcome:
        due = self.ready.due + UPSTREAM_WAIT + REPLICATION_DELAY
        cpu = _spent(began, ended)
        idle = _spent(resting, began)
        samples, events = self.installation.meter.samples, self.sandbox.events()
        return Outcome(
            stampede=self.stampede,
            judgement=judge(self.tenants, self.sandbox.verdict(), self.sandbox.bindings(), due),
            set_up=self.ready,
            cpu=cpu,
            idle={part: used / (began.at - resting.at) for part, used in idle.items()},
            elsewhere=ended.machine - began.machine - sum(cpu.values()),
            seconds=ended.at - began.at,
            settled=settled,
            memory=memory(samples, events, self.ready.due),
            calls=calls,
        )


async def _unsettled(due: datetime) -> int:
    """How many of the runs of this moment are not final yet."""
    around = {"after_": _iso(due, -1), "before_": _iso(due, +1)}
    final = [state.value for state in TERMINAL_STATES]
    wanted = {"expected_start_time": around, "state": {"type": {"not_any_": final}}}
    async with get_client() as client:
        answer = await client.request("POST", "/flow_runs/count", json={"flow_runs": wanted})
    return int(answer.json())


def _read(installation: Installation) -> Clocks:
    used = installation.meter.cpu()
    return Clocks({part: used[part] for part in COUNTED if part in used}, machine_cpu())


def _spent(began: Clocks, ended: Clocks) -> dict[str, float]:
    return {part: ended.parts[part] - began.parts[part] for part in began.parts}


async def _until(moment: datetime) -> None:
    await asyncio.sleep(max(0.0, (moment - clock.now()).total_seconds()))


def _iso(moment: datetime, seconds: float) -> str:
    return (moment + timedelta(seconds=seconds)).isoformat()
