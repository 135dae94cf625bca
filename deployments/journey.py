"""What is known of a journey: how far it has come, and how it ended."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import TaskRunSort
from pydantic import AwareDatetime, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from deployments.readable import is_unreadable, read_readable
from flows.contract import DailyOrdersBatchCloseConfigOutcome, DailyOrdersBatchCloseConfigRequest
from flows.parameters import from_parameters

JOURNEY = "daily-orders-batch-close"
FLOW = "configure"
FIRST_STEP, LAST_STEP = "exchangeInitialToken", "completeConfigured"
READ_AT_ONCE = 30
"""Journeys in one query: their steps fit into one page of Prefect's, which has 200."""

OF_JOURNEYS = FlowFilter(name=FlowFilterName(any_=[FLOW]))
"""Which of Prefect's flow runs are journeys."""

Phase = Literal["Running", "Succeeded", "Failed"]


class JourneyError(Exception):
    """A journey cannot be started, found or finished."""


class UnknownJourneyError(JourneyError):
    """There is no such journey."""


class JourneyRunningError(JourneyError):
    """The journey has no result yet."""


class JourneyFailedError(JourneyError):
    """The journey ended without configuring anything; the message says why.

    Attributes:
        code: FAILED, CRASHED or CANCELLED.
    """

    def __init__(self, reason: str, *, code: str = "FAILED") -> None:
        super().__init__(reason)
        self.code = code


class JourneyStatus(BaseModel):
    """How far a journey has come: the seed's `JourneyStatus`."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    journey_id: UUID
    journey_name: str = JOURNEY
    phase: Phase
    current_state: str
    updated_at: AwareDatetime
    attributes: dict[str, str]


@dataclass(frozen=True)
class Journey:
    """What was read of one journey at one moment."""

    status: JourneyStatus
    code: str
    reason: str
    parameters: Mapping[str, Any] = field(repr=False)

    @property
    def tenant_id(self) -> str:
        """Whose journey it is."""
        return self.status.attributes["tenantId"]

    def outcome(self) -> DailyOrdersBatchCloseConfigOutcome:
        """What it configured; raises JourneyRunningError or JourneyFailedError."""
        match self.status.phase:
            case "Running":
                raise JourneyRunningError(f"Journey {self.status.journey_id} has not finished yet.")
            case "Failed":
                raise JourneyFailedError(self.reason or "The journey failed.", code=self.code)
        # It says nothing that the parameters do not, so no result has to be stored for it.
        try:
            wanted = from_parameters(self.parameters)
            request = DailyOrdersBatchCloseConfigRequest.model_validate(wanted)
        except ValueError:  # not told: it may hold anything
            raise JourneyFailedError("Somebody changed what it was asked for in Prefect.") from None
        return DailyOrdersBatchCloseConfigOutcome.of(request)


async def read(journey_ids: Collection[UUID]) -> dict[UUID, Journey]:
    """Those of these journeys that exist, READ_AT_ONCE at most, in two queries for all of them.

    One that Prefect cannot tell of is left out, as if it did not exist.
    """
    async with get_client() as client:
        runs = await _runs(client, list(journey_ids))
        steps = await _latest_steps(client, [run for run in runs if _phase(run) != "Succeeded"])
    return {run.id: _journey(run, steps.get(run.id, FIRST_STEP)) for run in runs}


async def _runs(client: PrefectClient, ids: Sequence[UUID]) -> list[FlowRun]:
    filters = FlowRunFilter(id=FlowRunFilterId(any_=list(ids)))
    try:
        return await client.read_flow_runs(flow_filter=OF_JOURNEYS, flow_run_filter=filters)
    except Exception as error:
        if not is_unreadable(error):
            raise
    readable, unreadable = await read_readable(client, ids, flow=FLOW)
    if unreadable and not readable:
        raise JourneyError("Prefect tells of no journey at the moment: try again.")
    return readable


def unknown(journey_id: object) -> UnknownJourneyError:
    """The error for a journey that does not exist, or not for who asks."""
    return UnknownJourneyError(f"There is no journey {journey_id}.")


async def read_one(journey_id: UUID) -> Journey:
    """The journey; raises UnknownJourneyError."""
    found = await read([journey_id])
    if journey_id not in found:
        raise unknown(journey_id)
    return found[journey_id]


def _journey(run: FlowRun, latest_step: str) -> Journey:
    phase = _phase(run)
    status = JourneyStatus(
        journey_id=run.id,
        phase=phase,
        current_state=LAST_STEP if phase == "Succeeded" else latest_step,
        updated_at=run.state.timestamp if run.state else run.updated,
        attributes={
            "tenantId": str(run.parameters.get("tenant_id")),
            "batchId": str(run.parameters.get("batch_id")),
        },
    )
    code = run.state.type.value if run.state else ""
    reason = (run.state and run.state.message) or ""
    return Journey(status, code, reason, run.parameters)


def _phase(run: FlowRun) -> Phase:
    if run.state is None or not run.state.is_final():
        return "Running"
    return "Succeeded" if run.state.is_completed() else "Failed"


async def _latest_steps(client: PrefectClient, runs: Collection[FlowRun]) -> dict[UUID, str]:
    """The step that each run began last, in camelCase; nothing for those before their first."""
    if not runs:
        return {}
    # As they come: Prefect's models take half a millisecond for each of these, in which an API that
    # reads many journeys would answer nobody.
    wanted = {
        "flow_runs": {"id": {"any_": [str(run.id) for run in runs]}},
        "sort": TaskRunSort.EXPECTED_START_TIME_DESC.value,
        "limit": 200,
    }
    steps = (await client.request("POST", "/task_runs/filter", json=wanted)).json()
    return {
        UUID(step["flow_run_id"]): to_camel(step["name"].rsplit("-", 1)[0])
        for step in reversed(steps)
        if step["flow_run_id"]
    }
