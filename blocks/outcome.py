"""How a night ended, and how the state of its run says so.

Of two things that are said of the same night it is told here which is to be believed.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, computed_field
from pydantic.alias_generators import to_camel

from blocks.quoting import quotable

Status = Literal["CLOSED", "FAILED", "SKIPPED"]

REASON_BYTES = 1_500
"""A Prefect variable holds 5,000 bytes of JSON, and the reason is a part of one."""

_WEIGHT: dict[Status, int] = {"SKIPPED": 0, "FAILED": 1, "CLOSED": 2}


_CLOSED = re.compile(r"Closed at (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|an unknown time) UTC")
"""What a run says that closed its night: exactly this, because people write messages too."""


def _short(reason: str) -> str:
    line = " ".join(reason.split())
    whole = line.encode(errors="replace")
    if len(whole) <= REASON_BYTES:
        return line
    return whole[: REASON_BYTES - 3].decode(errors="ignore") + "…"


class LastBatch(BaseModel):
    """How one occurrence ended: the seed's `context.lastBatch`, and a row of the history.

    All moments are UTC. `run` is empty where the occurrence is none of those configured.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    batch_id: str
    occurrence: AwareDatetime
    status: Status
    snapshot_id: str | None = None
    closed_at: AwareDatetime | None = None
    run: int | None = None
    max_runs: int | None = None
    reason: Annotated[str, AfterValidator(_short)] | None = None
    flow_run_id: UUID | None = None
    """The Prefect flow run that recorded it; empty where another one did so on its behalf."""
    inferred: bool = False
    """Whether no run of the night said so itself: a later night found that none had."""

    @computed_field  # type: ignore[prop-decorator]  # as pydantic has it
    @property
    def ok(self) -> bool:
        """Whether the batch was closed."""
        return self.status == "CLOSED"


def believed(known: LastBatch | None, new: LastBatch) -> LastBatch:
    """Which of two outcomes of the same occurrence counts, the new one or what was known of it.

    CLOSED outranks FAILED, FAILED outranks SKIPPED: what came after a close could not undo it.
    What a run recorded is never replaced by what a later night inferred. Of two alike the first
    counts; but of two failures the latest, which says why the latest attempt failed.
    """
    if known is None:
        return new
    if new.inferred and not known.inferred:
        return known
    weights = _WEIGHT[known.status], _WEIGHT[new.status]
    if weights[0] == weights[1]:
        return new if known.inferred or new.status == "FAILED" else known
    return max(known, new, key=lambda outcome: _WEIGHT[outcome.status])


def merged(outcomes: Iterable[LastBatch]) -> dict[datetime, LastBatch]:
    """What is believed of each occurrence, by the occurrence, after hearing all these in turn."""
    nights: dict[datetime, LastBatch] = {}
    for outcome in outcomes:
        nights[outcome.occurrence] = believed(nights.get(outcome.occurrence), outcome)
    return dict(sorted(nights.items()))


def final_state(outcome: LastBatch) -> State[Any]:
    """The state of the night's run, which says the same as what is recorded."""
    data = outcome.model_dump(mode="json", by_alias=True, exclude_none=True)
    if outcome.status == "FAILED":
        return Failed(message=outcome.reason, data=data)
    if outcome.status == "SKIPPED":
        return Completed(name="Skipped", message=outcome.reason, data=data)
    at = f"{outcome.closed_at:%Y-%m-%d %H:%M:%S}" if outcome.closed_at else "an unknown time"
    return Completed(message=f"Closed at {at} UTC", data=data)


def says_closed(state: State[Any]) -> bool:
    """Whether a run that closed its night ended with this state."""
    return state.is_completed() and bool(_CLOSED.fullmatch(state.message or ""))


def says_skipped(state: State[Any]) -> bool:
    """Whether a run that skipped its night ended with this state: by hand nobody can name one."""
    return state.is_completed() and state.name == "Skipped"


def ended_as(state: State[Any]) -> tuple[Status, str]:
    """How a night ended whose run recorded nothing, as far as the run's final state tells; why."""
    said = quotable(state.message)
    reason = f"Its run ended as {state.name}" + (f": {said}" if said else ".")
    return ("FAILED" if state.is_failed() or state.is_crashed() else "SKIPPED"), reason
