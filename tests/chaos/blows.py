"""What falls on the installation in the middle of a round."""

from dataclasses import dataclass
from random import Random
from typing import Literal

from tests.chaos.hardships import MOMENTS, TROUBLES, WAITS, Moment, Phase, Target, Trouble
from tests.chaos.relay import Trap

Side = Literal["before", "after"]


@dataclass(frozen=True)
class Kill:
    """A part of the installation ends (or stands still) when the nth such request passes."""

    target: Target
    moment: Moment
    side: Side
    nth: int

    @property
    def name(self) -> str:
        """The line of the table."""
        return f"{self.target}: {self.side} {self.moment.name}"


@dataclass(frozen=True)
class KillInWait:
    """A part of the installation ends while runs wait."""

    target: Target
    wait: str

    @property
    def name(self) -> str:
        """The line of the table."""
        return f"{self.target}: in {self.wait}"


@dataclass(frozen=True)
class Disturbance:
    """Prefect's API misbehaves towards the worker, from the nth such request on."""

    trouble: Trouble
    phase: Phase
    nth: int

    @property
    def name(self) -> str:
        """The line of the table."""
        return self.trouble.name

    def trap(self) -> Trap:
        """What to lay on the wire to Prefect."""
        trouble = self.trouble
        assert trouble.effect != "away"
        return Trap(
            self.moment.matches,
            trouble.effect,
            first=self.nth,
            last=self.nth + trouble.count - 1,
            seconds=trouble.seconds,
        )

    @property
    def moment(self) -> Moment:
        """Which requests are counted."""
        anything = {"configure": "anything of the configuration", "close": "anything of the close"}
        name = self.trouble.moment or anything[self.phase]
        return next(moment for moment in MOMENTS if moment.name == name)


Blow = Kill | KillInWait | Disturbance


def draw(chance: Random, trials: int, targets: tuple[Target, ...]) -> Blow:
    """A blow for a round of so many trials."""
    kind = chance.random()
    target = chance.choice(targets)
    if kind < 0.15:
        return KillInWait(target, chance.choice(WAITS))
    if kind < 0.3:
        trouble = chance.choice(TROUBLES)
        anywhen: tuple[Phase, ...] = ("configure", "close")
        phase = "close" if trouble.moment else chance.choice(anywhen)
        return Disturbance(trouble, phase, _nth(chance, trials, is_any=not trouble.moment))
    moment = chance.choice(MOMENTS)
    is_any = moment.name.startswith("anything")
    side: Side = chance.choice(("before", "after"))
    return Kill(target, moment, side, _nth(chance, trials, is_any=is_any))


def _nth(chance: Random, trials: int, *, is_any: bool) -> int:
    return chance.randint(1, 20 * trials if is_any else max(1, trials // 2))
