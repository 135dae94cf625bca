"""The readable history of a binding's nights: a Prefect table artifact, one row a night."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from blocks.binding import Binding
from blocks.context import LastBatch
from blocks.together import Together

NIGHTS_SHOWN = 62
"""Two months; older nights stay in the artifact's earlier versions."""


async def show(binding: Binding, outcomes: Sequence[LastBatch]) -> None:
    """Add these nights to the binding's history, in place of what it said of them before.

    A night that was closed stays closed: what came after could not undo it.
    """
    key = _key(binding)
    rows = {row["occurrence"]: row for row in await _shown(key)}
    closed = {night for night, row in rows.items() if row["status"] == "CLOSED"}
    changed = {row["occurrence"]: row for row in map(_row, outcomes)}
    changed = {night: row for night, row in changed.items() if night not in closed}
    if changed.items() <= rows.items():
        return
    nights = sorted((rows | changed).values(), key=lambda row: row["occurrence"])
    artifact = {
        "type": "table",
        "key": key,
        "data": json.dumps(nights[-NIGHTS_SHOWN:]),
        "description": f"The nights of {binding}, the latest last.",
        "flow_run_id": _run_id(),
    }
    # Not with Prefect's own function, which looks up the run's deployment for an event of its own.
    async with get_client() as client:
        await client.request("POST", "/artifacts/", json=artifact)


async def nights(binding: Binding) -> list[dict[str, Any]]:
    """The rows that people are shown, the latest night last."""
    return await _shown(_key(binding))


async def _shown(key: str) -> list[dict[str, Any]]:
    shown = await _together.get(key)
    return (await _read([key]))[key] if shown is None else shown


async def _read(keys: list[str]) -> dict[str, list[dict[str, Any]]]:
    wanted = {"artifacts": {"key": {"any_": keys}}}
    async with get_client() as client:
        response = await client.request("POST", "/artifacts/latest/filter", json=wanted)
    tables = {it["key"]: it["data"] for it in response.json() if isinstance(it["data"], str)}
    return {key: json.loads(tables.get(key, "[]")) for key in keys}


_together = Together(_read, most=50)


def _run_id() -> str | None:
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else None


def _key(binding: Binding) -> str:
    return f"nights-{binding.slug}"


def _row(outcome: LastBatch) -> dict[str, Any]:
    number = "" if outcome.run is None else f"{outcome.run} of {outcome.max_runs}"
    return {
        "occurrence": _in_words(outcome.occurrence),
        "run": number,
        "status": outcome.status,
        "snapshot": outcome.snapshot_id or "",
        "closed at": _in_words(outcome.closed_at) if outcome.closed_at else "",
        "reason": outcome.reason or "",
    }


def _in_words(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
