"""One tenant's way through a round: what it wants, what it goes through, how it must end."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

from blocks.binding import Binding
from deployments.sandbox.settings import Rotation
from tests.chaos.hardships import CLOSED, WIRE_FAULTS, Ending, WireFault

UPSTREAM_WAIT = timedelta(seconds=8)
REPLICATION_DELAY = timedelta(seconds=5)

TWICE = 0.4
"""How many of those whom only the blow meets are configured twice."""


@dataclass
class Trial:
    """One tenant, configured for one night."""

    blow: str
    """What falls on everyone in its round."""
    fault: WireFault | None = None
    rotation: Rotation = "strict"
    binding: Binding = field(default_factory=lambda: Binding(f"tenant-{uuid4().hex[:12]}", "eod"))
    first_run_at: datetime | None = None
    journey_id: UUID | None = None
    is_configured_twice: bool = False
    """Whether its caller asks twice, with two tokens: one grant takes the place of the other."""

    @property
    def journeys(self) -> int:
        """How many configurations its caller asks for."""
        return 2 if self.is_configured_twice else 1

    @property
    def name(self) -> str:
        """The line of the table that it counts for."""
        return self.fault.name if self.fault else self.blow

    @property
    def endings(self) -> frozenset[Ending]:
        """How it may end."""
        return self.fault.endings(self.rotation) if self.fault else CLOSED

    def request(self, first_run_at: datetime) -> dict[str, Any]:
        """The configuration that its caller asks for."""
        self.first_run_at = first_run_at
        return {
            "tenantId": self.binding.tenant_id,
            "batchId": self.binding.batch_id,
            "firstRunAt": first_run_at.isoformat(),
            "interval": "PT1H",
            "maxRuns": 1,
            "upstreamWaitDuration": f"PT{UPSTREAM_WAIT.seconds}S",
            "replicationDelayDuration": f"PT{REPLICATION_DELAY.seconds}S",
        }


def draw(
    chance: Random, number: int, blow: str, rotation: Rotation, *, calm: bool = False
) -> list[Trial]:
    """So many trials; half of them, or all the calm ones, have no more to bear than the blow."""

    def fault() -> WireFault | None:
        return None if calm or chance.random() < 0.5 else chance.choice(WIRE_FAULTS)

    drawn = [Trial(blow, fault(), rotation) for _ in range(number)]
    for trial in drawn:
        trial.is_configured_twice = not calm and trial.fault is None and chance.random() < TWICE
    return drawn
