"""How Prefect's API, or the way to it, misbehaves towards the workers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.chaos.blows import Blow
from tests.chaos.moments import Moment, Phase, named
from tests.chaos.relay import Effect, Trap


@dataclass(frozen=True)
class Trouble:
    """What happens to requests of some kind."""

    name: str
    effect: Effect | Literal["away"]
    moment: str = ""
    """Which requests: anything unless it says more."""
    count: int = 1
    seconds: float = 0.0
    """0, for one that lasts: as long as its blow does."""


TROUBLES = [
    Trouble("Prefect: 503 for 20 requests", "unavailable", count=20),
    Trouble("Prefect: 503 while storing a token", "unavailable", "storing a rotated token", 5),
    Trouble("Prefect: connection reset", "reset_before", count=3),
    Trouble("Prefect: reply lost", "reset_after", count=3),
    Trouble(
        "Prefect: reply lost while storing a token", "reset_after", "storing a rotated token", 2
    ),
    Trouble("Prefect: slow", "slow", count=10, seconds=2),
    Trouble("Prefect: away for 15 seconds", "away", seconds=15),
    Trouble("Prefect: away for leases", "away"),
    Trouble("Prefect: away for leases as a token is stored", "away", "storing a rotated token"),
]


@dataclass(frozen=True)
class Disturbance(Blow):
    """Prefect's API misbehaves towards the worker, from the nth such request on."""

    trouble: Trouble
    phase: Phase
    nth: int

    @property
    def name(self) -> str:
        """The line of the table."""
        return self.trouble.name

    @property
    def moment(self) -> Moment:
        """Which requests are counted."""
        anything = {"configure": "anything of the configuration", "close": "anything of the close"}
        return named(self.trouble.moment or anything[self.phase])

    def trap(self, act: Callable[[int], None]) -> Trap:
        """What to lay on the wire to Prefect; `act` is called where Prefect is to go away."""
        trouble, matches = self.trouble, self.moment.matches
        if trouble.effect == "away":
            return Trap(matches, "act_before", first=self.nth, last=self.nth, act=act, cut=False)
        last = self.nth + trouble.count - 1
        return Trap(matches, trouble.effect, first=self.nth, last=last, seconds=trouble.seconds)
