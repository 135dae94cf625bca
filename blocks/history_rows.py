"""A row of the history as it is stored, and as it was when it was written for people only."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from blocks.binding import Binding
from blocks.outcome import LastBatch, merged

OF_ALL = frozenset({"batch_id", "ok"})
"""What would be the same in every row, or follows from the others."""


def as_row(night: LastBatch) -> dict[str, Any]:
    """The night as JSON: RFC 3339 moments in UTC, numbers, and every member in every row.

    Prefect's UI takes a table's columns from its first row.
    """
    return night.model_dump(mode="json", by_alias=True, exclude=set(OF_ALL))


def read_rows(binding: Binding, rows: Sequence[Mapping[str, Any]]) -> dict[datetime, LastBatch]:
    """The binding's nights, by the occurrence; raises TypeError or ValueError for what is none."""
    return merged(
        LastBatch.model_validate({"batchId": binding.batch_id, **_as_they_are_now(row)})
        for row in rows
    )


def _as_they_are_now(row: Mapping[str, Any]) -> dict[str, Any]:
    if "snapshot" not in row:
        return dict(row)
    run, _, max_runs = str(row["run"]).partition(" of ")
    return {
        "occurrence": row["occurrence"],
        "run": run or None,
        "maxRuns": max_runs or None,
        "status": row["status"],
        "snapshotId": row["snapshot"] or None,
        "closedAt": row["closed at"] or None,
        "reason": row["reason"] or None,
    }
