"""Look at a configured batch, and end it: from Python.

    batch = await describe(Binding("acme", "eod"))
    await end(Binding("acme", "eod"))

An extension of the seed, which only starts journeys.
"""

from datetime import datetime
from typing import Self

from prefect.logging import get_logger
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from blocks import begun_runs, clock, context, deployment, history, standing, systems
from blocks import grant as grants
from blocks.binding import Binding
from blocks.lock import only_holder
from blocks.outcome import LastBatch
from blocks.standing import Standing
from flows.contract import DailyOrdersBatchCloseConfigOutcome, DailyOrdersBatchCloseConfigRequest
from flows.keeping import only_writer_of
from flows.missed import is_changed
from flows.requests import read_request
from flows.unopened import record_instead

REVOCATION_SECONDS = 5.0
"""Whoever ends a binding need not wait for longer than this for a slow OAuth server."""

logger = get_logger("batches")


class UnknownBatchError(Exception):
    """Nothing is configured under this tenant and batch."""


class _Shown(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Schedule(_Shown):
    """When the batch is closed, as it was configured."""

    first_run_at: str
    interval: str
    max_runs: int
    time_zone: str | None = None
    cadence: str
    upstream_wait_duration: str
    replication_delay_duration: str
    active: bool = Field(description="Whether nights are closed: false once it was stopped")
    paused_because: str | None = Field(
        default=None, description="What somebody has paused in Prefect; empty while it is active"
    )
    changed_in_prefect: bool = Field(
        description="Whether somebody has edited it in Prefect: what is said of it here is what was"
        " configured, but nextOccurrence is what will be"
    )

    @classmethod
    async def of(cls, request: DailyOrdersBatchCloseConfigRequest, stands: Standing) -> Self:
        """The schedule that the request asked for, and how it stands in Prefect."""
        paused_because = await stands.paused_because()
        outcome = DailyOrdersBatchCloseConfigOutcome.of(request)
        return cls(
            **outcome.model_dump(exclude={"status", "tenant_id", "batch_id"}),
            upstream_wait_duration=request.upstream_wait_duration,
            replication_delay_duration=request.replication_delay_duration,
            active=paused_because is None,
            paused_because=paused_because,
            changed_in_prefect=is_changed(stands, request.recurrence),
        )


class Batch(_Shown):
    """A configured batch: its schedule, how far it has come, how its nights ended."""

    tenant_id: str
    batch_id: str
    schedule: Schedule
    next_occurrence: AwareDatetime | None
    runs_done: int
    max_runs: int
    last_batch: LastBatch | None
    history: list[LastBatch] = Field(description="How its nights ended, the latest last")


async def describe(binding: Binding) -> Batch:
    """The batch as it stands; raises UnknownBatchError, and NightError if it cannot be read."""
    stands = await standing.read(binding)
    if stands is None:
        raise unknown(binding)
    request = read_request(binding, stands.parameters.get("configured"))
    schedule = await Schedule.of(request, stands)
    last = (await context.load(binding)).last_batch
    return Batch(
        tenant_id=binding.tenant_id,
        batch_id=binding.batch_id,
        schedule=schedule,
        next_occurrence=await _next_occurrence(stands, request, schedule),
        runs_done=_number(request, last.occurrence) if last else 0,
        max_runs=request.max_runs,
        last_batch=last,
        history=await history.nights(binding),
    )


async def _next_occurrence(
    stands: Standing, request: DailyOrdersBatchCloseConfigRequest, schedule: Schedule
) -> datetime | None:
    if not schedule.active:
        return None
    if schedule.changed_in_prefect:
        return await stands.next_run_at()
    return request.recurrence.after(clock.now())


async def end(binding: Binding, *, patience: float | None = None) -> None:
    """End the binding: nothing of it runs or closes any more, its grant is forgotten and revoked.

    Its history stays in Prefect. Repeat it if it fails half-way: what is found is ended.

    Args:
        binding: What to end.
        patience: Seconds to wait while it is being configured; a few minutes unless it is given.

    Raises UnknownBatchError, and LockedError while it is being configured.
    """
    async with only_holder(f"configure-{binding.slug}", patience=patience):
        if await deployment.find(binding) is None:
            raise unknown(binding)
        server = await systems.oauth_server()
        async with only_writer_of(binding, patience=patience) as stored:
            # First of all: a configuration that was asked for earlier may be under way.
            await context.store(binding, stored.model_copy(update={"ended_at": clock.now()}))
        # The deployment, by which the binding is found, goes last of what is stored. Its runs end
        # before; a request that is under way at the moment may still be answered.
        await deployment.pause(binding)
        stopped = await deployment.cancel_begun(binding)
        await grants.forget(binding, server, patience=patience, within=REVOCATION_SECONDS)
        for run in stopped:
            await record_instead(run, "SKIPPED", begun_runs.ENDED)
        await deployment.delete(binding)


def unknown(binding: Binding) -> UnknownBatchError:
    """The error for a batch that does not exist, or not for who asks."""
    return UnknownBatchError(f"{binding} is not configured.")


def _number(request: DailyOrdersBatchCloseConfigRequest, occurrence: datetime) -> int:
    latest = request.recurrence.latest_at(occurrence)
    return (request.recurrence.number_of(latest) or 0) if latest else 0
