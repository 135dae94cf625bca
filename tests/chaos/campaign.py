"""A seeded campaign: rounds of trials on one installation, and a table of how they ended."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.oauth import OAuthServer
from deployments.demo import create_work_pool
from deployments.sandbox.client import SandboxClient
from deployments.sandbox.settings import Rotation
from tests.chaos import blows, trials
from tests.chaos.arena import Arena, arena
from tests.chaos.blows import Blow
from tests.chaos.hardships import TARGETS, Target
from tests.chaos.judge import Finding
from tests.chaos.rounds import Round
from tests.chaos.systems import save_impatient_blocks

ROUND = 10
"""Trials in a round."""

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
    findings: list[Finding] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    async def fight(self, home: Path, *, on_postgres: bool, **settings: str) -> None:
        """Play every round."""
        with (
            arena(home, on_postgres=on_postgres, **settings) as installation,
            temporary_settings({PREFECT_API_URL: installation.stack.api_url}),
        ):
            await create_work_pool()
            await save_impatient_blocks(installation.outside_url)
            installation.stack.run("prefect", "--no-prompt", "deploy", "--all")
            for number, size in enumerate(self._sizes()):
                await self._round(installation, number, size)

    def _sizes(self) -> Iterator[int]:
        for done in range(0, self.trials, ROUND):
            yield min(ROUND, self.trials - done)

    async def _round(self, installation: Arena, number: int, size: int) -> None:
        chance = Random(f"{self.seed} {number}")  # noqa: S311  (repeatable is the point)
        rotation: Rotation = chance.choice(("strict", "grace"))
        rotation = self.rotation or rotation
        life = chance.choice((6, 300))
        life = self.access_token_seconds or life
        blow = self._blow(chance, size)
        field = trials.draw(chance, size, blow.name, rotation, calm=self.only is not None)
        installation.start_sandbox(rotation, access_token_seconds=life)
        if not installation.workers:
            installation.start_workers(self.workers)
        with SandboxClient(installation.stack.sandbox_url) as sandbox:
            found = await Round(installation, sandbox, field, blow).play()
            self._judge_round(found, sandbox, f"round {number}, {rotation}, {life} s, {blow.name}")
        dead = installation.revive()
        if len(dead) > blow.name.startswith("one worker"):
            self.wrong.append(f"round {number}, {blow.name}: {' and '.join(dead)} gave up")

    def _blow(self, chance: Random, size: int) -> Blow:
        targets: tuple[Target, ...] = (*TARGETS, "one worker") if self.workers > 1 else TARGETS
        while True:
            blow = blows.draw(chance, size, targets)
            if self.only in {None, blow.name}:
                return blow

    def _judge_round(self, found: Sequence[Finding], sandbox: SandboxClient, name: str) -> None:
        verdict = sandbox.verdict()
        lost = sum(finding.trial.fault is not None or finding.lost_in_flight for finding in found)
        for count in ("early", "double_close", "rekeyed"):
            if getattr(verdict, count):
                self.wrong.append(f"{name}: {count}={getattr(verdict, count)}")
        if verdict.reuse > lost:
            self.wrong.append(f"{name}: reuse={verdict.reuse}")
        in_flight = sum(finding.lost_in_flight for finding in found)
        if in_flight > AT_ONCE:
            self.wrong.append(f"{name}: the grant is lost of {in_flight} tenants")
        for finding in found:
            self.wrong += [f"{name}: {finding.trial.name}: {it}" for it in finding.wrong]
        self.findings += found
        endings = Counter(str(finding.ending) for finding in found)
        print(f"{len(self.findings):4} {name}: {dict(endings)}", flush=True)  # noqa: T201
