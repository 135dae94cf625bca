"""The moments of a round at which a blow may fall: a kind of request, or a wait."""

import re
from dataclasses import dataclass
from typing import Literal

Wire = Literal["prefect", "outside"]
Phase = Literal["configure", "close"]


@dataclass(frozen=True)
class Moment:
    """A kind of request on one of the two wires."""

    name: str
    phase: Phase
    wire: Wire
    pattern: str

    @property
    def matches(self) -> re.Pattern[bytes]:
        """What the beginning of such a request looks like."""
        return re.compile(self.pattern.encode())

    @property
    def is_anything(self) -> bool:
        """Whether there are very many of such requests."""
        return self.name.startswith("anything")


MOMENTS = [
    Moment("exchange", "configure", "outside", r"POST /oauth/token "),
    Moment("storing a new grant", "configure", "prefect", r"POST /api/block_documents/ "),
    Moment("creating the deployment", "configure", "prefect", r"POST /api/deployments/ "),
    Moment("laying out the runs", "configure", "prefect", r"POST /api/deployments/\S+/schedule "),
    Moment("forgetting the caller", "configure", "prefect", r"DELETE /api/block_documents/"),
    Moment("anything of the configuration", "configure", "prefect", r"\w+ /api/"),
    Moment("refresh", "close", "outside", r"POST /oauth/token "),
    Moment("storing a rotated token", "close", "prefect", r"PATCH /api/block_documents/"),
    Moment("snapshot", "close", "outside", r"POST /orders/batches/prepareSnapshot"),
    Moment("close", "close", "outside", r"POST /orders/batches/close"),
    Moment("noting progress", "close", "prefect", r"PATCH /api/variables/name/"),
    Moment("a new variable", "close", "prefect", r"POST /api/variables/ "),
    Moment("a lease or a list of locks", "close", "prefect", r"PATCH /api/variables/[0-9a-f]{8}-"),
    Moment("a state", "close", "prefect", r"POST /api/flow_runs/\S+/set_state "),
    Moment("showing the history", "close", "prefect", r"POST /api/artifacts/ "),
    Moment("ending the schedule", "close", "prefect", r"PATCH /api/deployments/"),
    Moment("forgetting the grant", "close", "prefect", r"DELETE /api/block_documents/"),
    Moment("revoke", "close", "outside", r"POST /oauth/revoke"),
    Moment("anything of the close", "close", "prefect", r"\w+ /api/"),
]
WAITS = ("WaitForUpstream", "ReplicationDelay")


def named(name: str) -> Moment:
    """The moment of this name."""
    return next(moment for moment in MOMENTS if moment.name == name)
