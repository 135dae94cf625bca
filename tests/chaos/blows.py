"""What falls on the installation in the middle of a round, on everyone in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.chaos.moments import Moment
from tests.chaos.relay import Effect, Trap

Side = Literal["before", "after"]
How = Literal["deployment", "call"]
SlowEndpoint = Literal["token.refresh", "orders.prepareSnapshot"]
Target = Literal[
    "worker",
    "server",
    "both",
    "worker, politely",
    "worker, asleep",
    "server, asleep",
    "worker, replaced",
    "worker, replaced politely",
    "one worker",
]
"""All workers, or of several the one whose request it is: see `tests.chaos.arena.Arena.strike`."""

TARGETS: tuple[Target, ...] = (
    "worker",
    "server",
    "both",
    "worker, politely",
    "worker, asleep",
    "server, asleep",
    "worker, replaced",
    "worker, replaced politely",
)
"""What there is to strike where there is one worker; "one worker" stays dead, others take over."""


@dataclass(frozen=True, kw_only=True)
class Blow:
    """What falls on everyone in a round.

    Attributes:
        leases: How long it lasts, in lengths of a lease, if it lasts.
        is_calm: Whether no outside system misbehaves towards anyone beside it.
        patience: How many seconds outside systems are waited for, if not as always.
        access_token_seconds: How long an access token lives, if not as drawn.
    """

    leases: float = 0.0
    is_calm: bool = False
    patience: float | None = None
    access_token_seconds: int | None = None

    @property
    def name(self) -> str:
        """The line of the table."""
        raise NotImplementedError


@dataclass(frozen=True)
class Kill(Blow):
    """A part of the installation ends (or stands still) when the nth such request passes."""

    target: Target
    moment: Moment
    side: Side
    nth: int

    @property
    def name(self) -> str:
        """The line of the table."""
        return f"{self.target}: {self.side} {self.moment.name}"

    def trap(self, act: Callable[[int], None]) -> Trap:
        """What to lay on the wire, so that `act` is called at the moment."""
        effect: Effect = "act_before" if self.side == "before" else "act_after"
        is_cut = self.target in {"worker", "both"}
        return Trap(self.moment.matches, effect, first=self.nth, last=self.nth, act=act, cut=is_cut)


@dataclass(frozen=True)
class KillInWait(Blow):
    """A part of the installation ends (or stands still) while runs wait."""

    target: Target
    wait: str

    @property
    def name(self) -> str:
        """The line of the table."""
        return f"{self.target}: in {self.wait}"


@dataclass(frozen=True)
class ClockStep(Blow):
    """The clock of the workers' machine is set to another time while they run, and back."""

    seconds: float
    wait: str

    @property
    def name(self) -> str:
        """The line of the table."""
        return f"clock: {'ahead' if self.seconds > 0 else 'back'} in {self.wait}"


@dataclass(frozen=True)
class Slow(Blow):
    """An outside system takes its time with every such request; nobody gives it up."""

    endpoint: SlowEndpoint
    seconds: float

    @property
    def name(self) -> str:
        """The line of the table."""
        what = "refresh" if self.endpoint == "token.refresh" else "snapshot"
        return f"{self.seconds:g} seconds for each {what}"


@dataclass(frozen=True)
class ByHand(Blow):
    """People run the close of nights that wait: through the template, or as a call from Python."""

    how: How
    wait: str

    @property
    def name(self) -> str:
        """The line of the table."""
        return f"by hand: {self.how} in {self.wait}"


@dataclass(frozen=True)
class Suspension(Blow):
    """People suspend runs, as the UI does it, and resume them after so many seconds."""

    seconds: float

    @property
    def name(self) -> str:
        """The line of the table."""
        return "suspended and resumed"


@dataclass(frozen=True)
class PoolPause(Blow):
    """People pause the work pool while runs wait, and resume it after so many seconds."""

    seconds: float
    wait: str

    @property
    def name(self) -> str:
        """The line of the table."""
        return f"work pool paused: in {self.wait}"
