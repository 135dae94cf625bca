"""Configured once, closed by the schedule."""

import pytest

from tests.end_to_end.nights import Nights, in_seconds


@pytest.mark.usefixtures("worker")
async def test_a_first_run_a_few_seconds_ahead_is_not_missed(nights: Nights) -> None:
    await nights.configure(in_seconds(8))
    await nights.reach("Completed")
    (close,) = nights.closes()
    assert [close.occurrence] == nights.planned
