"""The history of a binding's nights: a Prefect table artifact, which people read as a table.

A row is a `LastBatch` as JSON. The artifact is changed in place: as a new version each night, what
a tenant takes in Prefect's database would grow by the whole table every night.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.context import FlowRunContext
from prefect.logging import get_logger

from blocks.binding import Binding
from blocks.history_rows import as_row, read_rows
from blocks.outcome import LastBatch
from blocks.ownership import require_lease
from blocks.together import Together

NIGHTS_KEPT = 62
"""Two months."""


@dataclass(frozen=True)
class History:
    """The nights that are known of a binding, and the artifact that they stand in, if any."""

    nights: dict[datetime, LastBatch]
    artifact_id: UUID | None = None


async def read(binding: Binding) -> History:
    """What is known of the binding's nights, by the occurrence, the latest last."""
    key = _key(binding)
    found = await _together.get(key) or (await _read([key]))[key]
    if found.get("data") is None:
        return History({})
    try:
        nights = read_rows(binding, json.loads(found["data"]))
    except (TypeError, ValueError) as error:
        # It is left as it is: what is recorded from now on stands in a new version of it.
        what = type(error).__name__
        get_logger("history").warning("The history of %s cannot be read: %s", binding, what)
        return History({})
    return History(nights, UUID(found["latest_id"]))


async def nights(binding: Binding) -> list[LastBatch]:
    """How the binding's nights ended, as far as it is kept, the latest last."""
    return [*(await read(binding)).nights.values()]


async def write(binding: Binding, history: History, nights: Iterable[LastBatch]) -> None:
    """Let the binding's history, which was read as `history`, be the latest of these nights.

    Raises OwnershipLostError and OwnershipUnknownError.
    """
    await require_lease()
    kept = sorted(nights, key=lambda night: night.occurrence)[-NIGHTS_KEPT:]
    if kept == [*history.nights.values()]:
        return
    shown = {
        "data": json.dumps([as_row(night) for night in kept]),
        "description": f"The nights of {_as_it_is(str(binding))}, the latest last.",
    }
    async with get_client() as client:
        if history.artifact_id and await _is_changed(client, history.artifact_id, shown):
            return
        # Not with Prefect's own function, which looks up the run's deployment for an event of its
        # own.
        named = {"type": "table", "key": _key(binding), "flow_run_id": _run_id()}
        await client.request("POST", "/artifacts/", json=named | shown)


async def _is_changed(client: PrefectClient, artifact_id: UUID, shown: dict[str, Any]) -> bool:
    """Change the artifact; returns whether it still exists."""
    try:
        await client.request(
            "PATCH", "/artifacts/{id}", path_params={"id": artifact_id}, json=shown
        )
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.NOT_FOUND:
            raise
        return False
    return True


async def _read(keys: list[str]) -> dict[str, dict[str, Any]]:
    wanted = {"artifacts": {"key": {"any_": keys}}}
    async with get_client() as client:
        response = await client.request("POST", "/artifacts/latest/filter", json=wanted)
    found = {
        it["key"]: {"data": it["data"], "latest_id": it["latest_id"]} for it in response.json()
    }
    return {key: found.get(key, {"data": None}) for key in keys}


_together = Together(_read, most=50)


def _as_it_is(text: str) -> str:
    """The text with each punctuation mark escaped (CommonMark 2.4).

    Prefect's UI shows a description as Markdown, and a name may hold anything: an image, for one.
    """
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def _run_id() -> str | None:
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else None


def _key(binding: Binding) -> str:
    return f"nights-{binding.slug}"
