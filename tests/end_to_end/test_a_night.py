"""Configured once, closed by the schedule."""

import pytest

from tests.end_to_end.nights import Nights, in_seconds


@pytest.mark.usefixtures("worker")
async def test_a_first_run_five_seconds_ahead_is_not_missed(nights: Nights) -> None:
    await nights.configure(in_seconds(5))
    await nights.reach("Completed")
    (close,) = nights.closes()
    assert [close.occurrence] == nights.planned
