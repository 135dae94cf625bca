"""What evolves from night to night and is no secret: a Prefect variable for each binding.

It lives in Prefect's database, not on a worker's disk, so that whichever machine goes on with a
night finds what was already done.
"""

from datetime import datetime
from functools import partial
from typing import Literal

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.exceptions import ObjectAlreadyExists
from pydantic import AwareDatetime, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from blocks.binding import Binding
from blocks.together import Together

Status = Literal["CLOSED", "FAILED", "SKIPPED"]


class _Stored(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class LastBatch(_Stored):
    """How one occurrence ended: the seed's `context.lastBatch`. All moments are UTC."""

    batch_id: str
    occurrence: AwareDatetime
    status: Status
    ok: bool
    snapshot_id: str | None = None
    closed_at: AwareDatetime | None = None
    run: int | None = None
    max_runs: int
    reason: str | None = None


class Progress(_Stored):
    """How far the close of one occurrence has come; what a replay needs and nothing else."""

    occurrence: AwareDatetime
    snapshot_id: str | None = None
    snapshot_at: AwareDatetime | None = None
    closing_at: AwareDatetime | None = None
    """When the close was first about to be sent: from then on it may have happened."""


class Context(_Stored):
    """A binding's non-secret context."""

    last_batch: LastBatch | None = None
    night: Progress | None = None
    is_new: bool = False
    """Whether nothing is stored of it yet; not stored itself."""

    def progress_of(self, occurrence: datetime) -> Progress:
        """The progress made on this occurrence so far: none if the stored night is another."""
        if self.night and self.night.occurrence == occurrence:
            return self.night
        return Progress(occurrence=occurrence)

    def outcome_of(self, occurrence: datetime) -> LastBatch | None:
        """How this occurrence ended, if it is the one that ended last."""
        last = self.last_batch
        return last if last and last.occurrence == occurrence else None


async def load(binding: Binding) -> Context:
    """The binding's context; an empty one before its first night."""
    name = _stored_name(binding)
    return await _together.get(name) or (await _read([name]))[name]


async def _read(names: list[str]) -> dict[str, Context]:
    wanted = {"variables": {"name": {"any_": names}}}
    async with get_client() as client:
        response = await client.request("POST", "/variables/filter", json=wanted)
    stored = {it["name"]: Context.model_validate(it["value"]) for it in response.json()}
    return {name: stored.get(name) or Context(is_new=True) for name in names}


_together = Together(_read, most=50)


async def store(binding: Binding, context: Context) -> None:
    """Store the binding's context, replacing what is there."""
    name = _stored_name(binding)
    value = context.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"is_new"})
    async with get_client() as client:
        create = partial(client.create_variable, VariableCreate(name=name, value=value))
        update = partial(client.update_variable, VariableUpdate(name=name, value=value))
        try:
            await (create if context.is_new else update)()
        except ObjectAlreadyExists:
            await update()
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise
            await create()
    context.is_new = False


def _stored_name(binding: Binding) -> str:
    return f"batch-close-{binding.slug}"
