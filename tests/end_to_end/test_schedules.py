"""What the Prefect server lays out for a configured binding, against what was asked for."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from blocks import clock
from tests.end_to_end.nights import Nights

YEAR = clock.now().year + 1
"""A year that has not begun, so that a first run in it is accepted."""


async def test_23_00_stays_23_00_when_the_clocks_change_in_spring_and_in_autumn(
    nights: Nights,
) -> None:
    paris = ZoneInfo("Europe/Paris")
    first = f"{YEAR}-03-20T23:00:00+01:00[Europe/Paris]"
    request = await nights.configure(first, interval="P1D", maxRuns=240)
    await nights.lay_out(datetime(YEAR + 1, 1, 1, tzinfo=UTC))
    local = [moment.astimezone(paris) for moment in await nights.moments()]
    assert local == list(request.recurrence.occurrences())
    assert {moment.time() for moment in local} == {time(23)}
    days = [moment.date() for moment in local]
    assert days == [days[0] + timedelta(days=number) for number in range(240)]
    winter, summer = timedelta(hours=1), timedelta(hours=2)
    assert [local[0].utcoffset(), local[100].utcoffset(), local[-1].utcoffset()] == [
        winter,
        summer,
        winter,
    ]


async def test_every_month_from_the_31st_skips_no_month(nights: Nights) -> None:
    first = f"{YEAR}-01-31T23:00:00-05:00[America/New_York]"
    await nights.configure(first, interval="P1M", maxRuns=14)
    await nights.lay_out(datetime(YEAR + 3, 1, 1, tzinfo=UTC))
    zone = ZoneInfo("America/New_York")
    local = [moment.astimezone(zone) for moment in await nights.moments()]
    months = [(moment.year, moment.month) for moment in local]
    assert months == [*((YEAR, month) for month in range(1, 13)), (YEAR + 1, 1), (YEAR + 1, 2)]
    # Each is the last day of its month, at 23:00.
    assert {(moment + timedelta(days=1)).day for moment in local} == {1}
    assert {moment.time() for moment in local} == {time(23)}


@pytest.mark.parametrize(
    ("first_run_at", "interval", "max_runs"),
    [
        ("01-31T23:30:00-05:00", "P1M", 5),
        ("03-01T22:00:00+05:30", "P1W", 7),
        ("03-27T02:30:00+01:00[Europe/Paris]", "P1D", 3),
        ("03-27T12:00:00Z", "PT6H", 9),
        ("06-01T00:00:00Z", "P1DT12H", 1),
        ("02-28T23:00:00+09:00[Asia/Tokyo]", "P1Y", 3),
    ],
)
async def test_exactly_the_occurrences_that_were_promised_exist_as_runs(
    nights: Nights, first_run_at: str, interval: str, max_runs: int
) -> None:
    first = f"{YEAR}-{first_run_at}"
    request = await nights.configure(first, interval=interval, maxRuns=max_runs)
    await nights.lay_out(datetime(YEAR + 5, 1, 1, tzinfo=UTC))
    moments = await nights.moments()
    assert moments == list(request.recurrence.occurrences())
    assert len(moments) == max_runs
    assert moments[0] == datetime.fromisoformat(first.partition("[")[0])


async def test_configuring_again_replaces_the_schedule_and_its_runs(nights: Nights) -> None:
    await nights.configure(f"{YEAR}-03-01T23:00:00Z", interval="P1D", maxRuns=9)
    deployment = await nights.deployment()
    again = await nights.configure(f"{YEAR}-04-01T21:00:00Z", interval="P1W", maxRuns=4)
    await nights.lay_out(datetime(YEAR + 1, 1, 1, tzinfo=UTC))
    assert await nights.moments() == list(again.recurrence.occurrences())
    same = await nights.deployment()
    assert same.id == deployment.id
    assert [schedule.id for schedule in same.schedules] == [
        schedule.id for schedule in deployment.schedules
    ]
