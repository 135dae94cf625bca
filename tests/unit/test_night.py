"""A night that was set aside for a wait, in this process."""

from datetime import UTC, datetime

import pytest

from blocks.binding import Binding
from blocks.context import Context, Progress
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.night import Night

OCCURRENCE = datetime(2026, 11, 24, 23, tzinfo=UTC)
REQUEST = DailyOrdersBatchCloseConfigRequest(
    tenant_id="acme",
    batch_id="eod",
    first_run_at="2026-11-24T23:00:00Z",
    interval="P1D",
    max_runs=3,
)


@pytest.mark.parametrize(
    "context",
    [
        Context(is_new=True),
        Context(night=Progress(occurrence=OCCURRENCE, snapshot_id="s-1", snapshot_at=OCCURRENCE)),
    ],
    ids=["nothing stored yet", "with a snapshot"],
)
async def test_it_is_found_again_as_it_was_without_asking_prefect(context: Context) -> None:
    night = Night(Binding("acme", "eod"), REQUEST, OCCURRENCE, context, is_refreshed=True)

    again = await Night.open(
        night.binding, REQUEST, started_for=OCCURRENCE, by_schedule=True, packed=night.packed
    )

    assert again == night
