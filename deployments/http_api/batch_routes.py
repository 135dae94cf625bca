"""Extensions of the seed: look at a configured batch, and end it."""

from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Depends, Path
from starlette.requests import Request

from blocks.binding import Binding
from blocks.oauth import Caller
from deployments import batches
from deployments.http_api.callers import Identified
from deployments.http_api.operations import described
from deployments.http_api.paths import BATCHES
from deployments.http_api.prefect import WRITE_SECONDS, prefect_at_hand
from deployments.http_api.shapes import Batch

LOCKED_SECONDS = 4.0
"""How long to wait for whoever holds each of three locks: together within WRITE_SECONDS."""

router = APIRouter(tags=["batches (extension)"])

PATH = BATCHES + "{tenantId:path}/{batchId:path}"


def binding_in_path(
    request: Request,
    tenant_id: Annotated[
        str, Path(alias="tenantId", min_length=1, description="One segment, percent-encoded.")
    ],
    batch_id: Annotated[
        str, Path(alias="batchId", min_length=1, description="One segment, percent-encoded.")
    ],
) -> Binding:
    """The binding that the path names; raises UnknownBatchError where it names none.

    Read from the path as it was sent: ids may hold anything, and once "%2F" has become "/" nobody
    can tell where the tenant ends.
    """
    raw = bytes(request.scope.get("raw_path") or b"").partition(b"?")[0]
    segments = raw.partition(BATCHES.encode())[2].split(b"/")
    named = Binding(tenant_id, batch_id)
    try:
        tenant, batch = (unquote_to_bytes(segment).decode() for segment in segments)
    except ValueError:  # not two segments, or no UTF-8
        raise batches.unknown(named) from None
    return Binding(tenant, batch)


Named = Annotated[Binding, Depends(binding_in_path)]


@router.get(PATH, **described("getBatch"))
async def get_batch(request: Request, binding: Named, caller: Identified) -> Batch:
    """The configured batch: its schedule, its next occurrence, how its nights ended."""
    _require(caller, binding)
    async with prefect_at_hand():
        return Batch.of(request, await batches.describe(binding))


@router.delete(PATH, status_code=204, **described("endBatch"))
async def end_batch(binding: Named, caller: Identified) -> None:
    """End it: no further night is closed, its grant is forgotten and revoked. History stays."""
    _require(caller, binding)
    async with prefect_at_hand(WRITE_SECONDS):
        await batches.end(binding, patience=LOCKED_SECONDS)


def _require(caller: Caller, binding: Binding) -> None:
    """What the caller may not see is not there, as far as they can tell."""
    if not caller.may_act_for(binding.tenant_id):
        raise batches.unknown(binding)
