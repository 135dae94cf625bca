"""When a run gives reason to look whether its schedule was changed before it was laid out."""

from datetime import UTC, datetime, timedelta

import pytest

from flows.old_schedule import may_be_changed

NIGHT = datetime(2026, 11, 24, 23, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("every", "ahead", "is_looked_at"),
    [
        (DAY, 3 * DAY - MINUTE, False),  # as Prefect lays out night by night
        (DAY, 3 * DAY - 10 * MINUTE, True),
        (DAY, MINUTE, True),
        (DAY, -MINUTE, True),
        (MINUTE, 59 * MINUTE, False),  # an hour ahead at least
    ],
)
def test_a_run_that_was_laid_out_when_all_are_gives_no_reason_to_look(
    every: timedelta, ahead: timedelta, is_looked_at: bool
) -> None:
    assert may_be_changed(NIGHT - ahead, NIGHT, NIGHT + every) is is_looked_at
