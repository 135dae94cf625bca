"""A seeded campaign: rounds of trials on one installation, and a table of how they ended."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks import systems
from blocks.oauth import OAuthServer
from deployments.demo import create_work_pool
from deployments.sandbox.client import SandboxClient
from deployments.sandbox.settings import Rotation
from tests.chaos import drawing, trials
from tests.chaos.arena import LEASE, Arena, arena
from tests.chaos.blows import TARGETS, Blow, Target
from tests.chaos.judge import Finding
from tests.chaos.leftovers import left_over
from tests.chaos.rounds import Round
from tests.chaos.systems import PATIENCE, save_impatient_blocks
from tests.chaos.takeovers import went_on

ROUND = 10
"""Trials in a round."""

DRAWS = 100_000
"""So many draws find any blow there is."""

AT_ONCE = OAuthServer.model_fields["refreshes_at_once"].default
"""How many grants may be lost with a worker: its refreshes under way."""


@dataclass
class Campaign:
    """So many trials, all drawn from the seed."""

    trials: int
    seed: int
    workers: int = 1
    only: str | None = None
    """The name of the one blow that falls in every round, on trials without faults of their own."""
    rotation: Rotation | None = None
    access_token_seconds: int | None = None
    same_name: bool = False
    """Whether all workers have one name."""
    lease: float = LEASE
    longest: float = 10.0
    """How many leases the longest outages and freezes may last."""
    limit: int | None = None
    """How many runs each worker executes at a time, if not as many as it likes."""
    again: bool = False
    """Whether all are configured once more, when the first configurations are done."""
    findings: list[Finding] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _patience: float = 0.0

    async def fight(self, home: Path, *, on_postgres: bool) -> None:
        """Play every round."""
        with (
            arena(home, on_postgres=on_postgres, lease=self.lease) as installation,
            temporary_settings({PREFECT_API_URL: installation.stack.api_url}),
        ):
            await create_work_pool()
            await self._have_patience(installation, PATIENCE)
            installation.stack.run("prefect", "--no-prompt", "deploy", "--all")
            for number, size in enumerate(self._sizes()):
                await self._round(installation, number, size)
            self.wrong += [f"in the end: {it}" for it in await left_over()]

    def _sizes(self) -> Iterator[int]:
        for done in range(0, self.trials, ROUND):
            yield min(ROUND, self.trials - done)

    async def _round(self, installation: Arena, number: int, size: int) -> None:
        chance = Random(f"{self.seed} {number}")  # noqa: S311  (repeatable is the point)
        rotation: Rotation = chance.choice(("strict", "grace"))
        rotation = self.rotation or rotation
        life = chance.choice((6, 300))
        blow = self._blow(chance, size)
        life = self.access_token_seconds or blow.access_token_seconds or life
        calm = self.only is not None or blow.is_calm
        field = trials.draw(chance, size, blow.name, rotation, calm=calm)
        installation.start_sandbox(rotation, access_token_seconds=life)
        await self._have_patience(installation, blow.patience or PATIENCE)
        if not installation.workers:
            installation.limit = self.limit
            installation.start_workers(self.workers, same_name=self.same_name)
        name = f"round {number}, {rotation}, {life} s, {blow.name}"
        with SandboxClient(installation.stack.sandbox_url) as sandbox:
            play = Round(installation, sandbox, field, blow, self.lease, again=self.again).play
            found = await play()
            self._judge_round(found, sandbox, name)
            took = went_on(sandbox.events(), installation.freezes)
        self.wrong += [f"{name}: {it}" for it in took]
        dead = installation.revive()
        if len(dead) > blow.name.startswith("one worker"):
            self.wrong.append(f"round {number}, {blow.name}: {' and '.join(dead)} gave up")

    async def _have_patience(self, installation: Arena, patience: float) -> None:
        if patience != self._patience:
            self._patience = patience
            await save_impatient_blocks(installation.outside_url, patience)
            if installation.workers:
                await asyncio.sleep(systems.KEPT_SECONDS)

    def _blow(self, chance: Random, size: int) -> Blow:
        targets: tuple[Target, ...] = (*TARGETS, "one worker") if self.workers > 1 else TARGETS
        for _ in range(DRAWS):
            blow = drawing.draw(chance, size, targets, self.longest)
            if self.only in {None, blow.name}:
                return blow
        raise ValueError(f"There is no blow {self.only!r} with {self.workers} workers.")

    def _judge_round(self, found: Sequence[Finding], sandbox: SandboxClient, name: str) -> None:
        verdict = sandbox.verdict()
        lost = sum(finding.trial.fault is not None or finding.lost_in_flight for finding in found)
        for count in ("early", "double_close", "rekeyed", "overlapping"):
            if getattr(verdict, count):
                self.wrong.append(f"{name}: {count}={getattr(verdict, count)}")
        if verdict.reuse > lost:
            self.wrong.append(f"{name}: reuse={verdict.reuse}")
        if verdict.presented_twice > sum(finding.in_flight for finding in found):
            self.wrong.append(f"{name}: presented_twice={verdict.presented_twice}")
        in_flight = sum(finding.lost_in_flight for finding in found)
        if in_flight > AT_ONCE:
            self.wrong.append(f"{name}: the grant is lost of {in_flight} tenants")
        for finding in found:
            self.wrong += [f"{name}: {finding.trial.name}: {it}" for it in finding.wrong]
        self.findings += found
        endings = Counter(str(finding.ending) for finding in found)
        print(f"{len(self.findings):4} {name}: {dict(endings)}", flush=True)  # noqa: T201
