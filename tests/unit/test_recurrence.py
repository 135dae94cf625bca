"""The schedule says what Prefect's server will do, and 23:00 stays 23:00."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pendulum
import pytest
from dateutil import tz
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect.client.schemas.schedules import RRuleSchedule
from prefect.server.schemas.schedules import RRuleSchedule as ServerSchedule

from flows import recurrence as recurrences
from flows import survey as surveys
from flows.durations import Interval, parse_interval
from flows.moments import Moment, parse_moment
from flows.recurrence import Recurrence
from flows.survey import survey

PARIS = "Europe/Paris"


def recurrence(first: str, interval: str, max_runs: int) -> Recurrence:
    moment = parse_moment(first)
    return Recurrence.starting(moment, moment.zone, parse_interval(interval), max_runs)


def local(schedule: Recurrence, zone: str, form: str = "%d %b %H:%M") -> list[str]:
    return [moment.astimezone(tz.gettz(zone)).strftime(form) for moment in schedule.occurrences()]


def laid_out_by_the_server(schedule: Recurrence) -> list[datetime]:
    server = ServerSchedule(rrule=schedule.rrule, timezone=schedule.timezone)
    dates = server.get_dates(n=schedule.max_runs + 1, start=schedule.first - timedelta(days=3))
    return [date.astimezone(UTC) for date in asyncio.run(dates)]


@pytest.mark.parametrize(
    ("first", "interval", "max_runs"),
    [
        (f"2027-03-20T23:00:00+01:00[{PARIS}]", "P1D", 20),
        (f"2027-10-20T23:00:00+02:00[{PARIS}]", "P1D", 20),
        (f"2027-03-20T02:30:00+01:00[{PARIS}]", "P1D", 20),
        (f"2027-10-20T02:30:00+02:00[{PARIS}]", "P1D", 20),
        ("2027-03-01T02:30:00-05:00[America/New_York]", "P1D", 300),
        ("2027-03-01T02:15:00+11:00[Australia/Lord_Howe]", "P1D", 300),
        (f"2027-01-31T23:00:00+01:00[{PARIS}]", "P1M", 14),
        (f"2028-02-29T23:00:00+01:00[{PARIS}]", "P1Y", 9),
        (f"2027-01-31T23:00:00+01:00[{PARIS}]", "P2W", 30),
        (f"2037-06-01T23:00:00+02:00[{PARIS}]", "P3M", 12),
        ("2027-01-31T23:30:00-05:00", "P1M", 14),
        ("2027-01-31T23:30:00+14:00", "P1Y2M", 14),
        ("2027-03-20T23:00:00+05:30", "P1D", 20),
        (f"2027-03-20T23:00:00+01:00[{PARIS}]", "PT6H", 60),
        (f"2027-03-20T23:00:00+01:00[{PARIS}]", "P1DT12H", 20),
        ("2027-03-20T23:00:07Z", "PT20S", 50),
    ],
)
def test_the_occurrences_are_the_runs_that_prefects_server_lays_out(first, interval, max_runs):
    schedule = recurrence(first, interval, max_runs)

    RRuleSchedule(rrule=schedule.rrule, timezone=schedule.timezone)  # the client takes it
    assert list(schedule.occurrences()) == laid_out_by_the_server(schedule)
    assert len(list(schedule.occurrences())) == max_runs
    assert schedule.first == parse_moment(first).at


def test_23_00_stays_23_00_when_the_clocks_change():
    spring = recurrence(f"2027-03-26T23:00:00+01:00[{PARIS}]", "P1D", 4)
    autumn = recurrence(f"2027-10-29T23:00:00+02:00[{PARIS}]", "P1D", 4)

    assert {moment[-5:] for moment in local(spring, PARIS) + local(autumn, PARIS)} == {"23:00"}
    assert survey(spring).shortest_gap == timedelta(hours=23)
    assert survey(autumn).shortest_gap == timedelta(hours=24)


def test_an_offset_alone_never_changes():
    schedule = recurrence("2027-03-26T23:00:00+01:00", "P1D", 4)

    assert {moment.hour for moment in schedule.occurrences()} == {22}


def test_a_skipped_local_time_comes_an_hour_earlier_and_no_night_is_lost():
    schedule = recurrence(f"2027-03-27T02:30:00+01:00[{PARIS}]", "P1D", 3)

    assert local(schedule, PARIS) == ["27 Mar 02:30", "28 Mar 01:30", "29 Mar 02:30"]


def test_a_local_time_that_comes_twice_is_closed_once_the_first_time():
    schedule = recurrence(f"2027-10-30T02:30:00+02:00[{PARIS}]", "P1D", 3)

    assert [moment.isoformat()[5:16] for moment in schedule.occurrences()] == [
        "10-30T00:30",
        "10-31T00:30",
        "11-01T01:30",
    ]


def test_a_schedule_cannot_begin_with_the_second_of_two_equal_local_times():
    second = parse_moment(f"2027-10-31T02:30:00+01:00[{PARIS}]")
    with pytest.raises(ValueError, match=r"is the second 02:30 of a night"):
        second.check_is_first_in(PARIS)

    second.check_is_first_in("UTC")
    assert recurrence(f"2027-10-31T02:30:00+01:00[{PARIS}]", "PT6H", 3).first.hour == 1


def test_the_31st_is_the_last_day_of_every_month():
    schedule = recurrence(f"2027-01-31T23:00:00+01:00[{PARIS}]", "P1M", 14)

    assert " ".join(local(schedule, PARIS, "%d")) == "31 28 31 30 31 30 31 31 30 31 30 31 31 29"


def test_the_30th_is_the_30th_wherever_there_is_one():
    schedule = recurrence(f"2027-01-30T23:00:00+01:00[{PARIS}]", "P1M", 5)

    assert local(schedule, PARIS, "%d") == ["30", "28", "30", "30", "30"]


def test_29_february_is_the_28th_in_common_years():
    schedule = recurrence(f"2028-02-29T23:00:00+01:00[{PARIS}]", "P1Y", 5)

    assert local(schedule, PARIS, "%Y %d") == [
        "2028 29",
        "2029 28",
        "2030 28",
        "2031 28",
        "2032 29",
    ]


def test_the_31st_at_a_fixed_offset_is_the_31st_there_and_not_in_utc():
    schedule = recurrence("2027-01-31T23:30:00-05:00", "P1M", 3)

    assert local(schedule, "Etc/GMT+5") == ["31 Jan 23:30", "28 Feb 23:30", "31 Mar 23:30"]


@pytest.mark.parametrize("offset", ["+05:30", "-03:30", "+15:00", "-13:00"])
def test_months_at_an_offset_that_no_zone_keeps_need_a_zone(offset):
    with pytest.raises(ValueError, match="needs a time zone for steps of months or years"):
        recurrence(f"2027-01-31T23:30:00{offset}", "P1M", 3)

    assert recurrence(f"2027-01-31T23:30:00{offset}", "P1D", 3).timezone == "UTC"


def test_an_interval_with_a_time_part_is_exact_elapsed_time():
    schedule = recurrence(f"2027-03-27T23:00:00+01:00[{PARIS}]", "P1DT12H", 5)

    assert {due - before for before, due in pairwise(schedule.occurrences())} == {
        timedelta(hours=36)
    }


def test_the_moment_after_the_last_occurrence_is_known_for_the_late_rule():
    schedule = recurrence(f"2027-01-31T23:00:00+01:00[{PARIS}]", "P1M", 2)

    assert schedule.after(schedule.last) is None
    assert schedule.after(schedule.last, bounded=False) == datetime(2027, 3, 31, 21, tzinfo=UTC)


def test_the_next_moment_is_found_at_once_however_long_ago_the_schedule_began():
    minutely = recurrence("0026-01-01T00:00:30Z", "PT1M", 1)
    monthly = recurrence("0026-01-31T00:00:30Z", "P1M", 1)
    moment = datetime(2026, 11, 22, 12, tzinfo=UTC)

    assert minutely.after(moment, bounded=False) == moment + timedelta(seconds=30)
    assert monthly.after(moment, bounded=False) == datetime(2026, 11, 30, 0, 0, 30, tzinfo=UTC)


def test_long_after_the_last_occurrence_that_is_the_latest():
    schedule = recurrence(f"2027-01-31T23:00:00+01:00[{PARIS}]", "P1M", 2)

    assert schedule.latest_at(schedule.last + timedelta(days=3000)) == schedule.last
    assert schedule.latest_at(schedule.first - timedelta(days=3000)) is None


def test_what_a_night_asks_takes_no_longer_for_a_hundred_thousand_runs(monkeypatch):
    schedule = recurrence(f"2027-01-01T23:00:00+01:00[{PARIS}]", "P1D", 100_000)
    occurrence = schedule.last - timedelta(days=3000)
    laid_out = 0
    lay_out = recurrences._lay_out  # noqa: SLF001

    def count(rrule, timezone):
        nonlocal laid_out
        for moment in lay_out(rrule, timezone):
            laid_out += 1
            yield moment

    monkeypatch.setattr(recurrences, "_lay_out", count)
    assert schedule.number_of(occurrence) == 97_000
    assert schedule.latest_at(occurrence) == occurrence
    assert [*islice(schedule.occurrences(after=occurrence), 1)] == [schedule.after(occurrence)]
    assert schedule.last > occurrence
    assert laid_out < 50


@pytest.mark.parametrize("interval", ["P1D", "P7D", "P1M", "P5M", "P1Y", "P48M", "P365D", "PT6H"])
@pytest.mark.parametrize(
    "first",
    [
        f"2026-12-31T23:00:00+01:00[{PARIS}]",
        "2026-12-31T23:00:00+05:30[Asia/Kolkata]",
        "2026-12-31T23:00:00Z",
        "9000-12-31T23:00:00Z",
        "0026-12-31T23:00:00Z",
        "1826-12-31T23:00:00Z[Africa/Casablanca]",
    ],
)
def test_a_survey_of_a_hundred_thousand_nights_takes_milliseconds(first, interval):
    schedule = recurrence(first, interval, 100_000)

    def seconds():
        began = time.process_time()
        survey(schedule, since=datetime(2026, 1, 1, tzinfo=UTC))
        return time.process_time() - began

    assert any(seconds() < 0.05 for _ in range(20))  # what else the machine does is not to count


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "UTC", "America/Sao_Paulo", "Africa/Juba"])
@pytest.mark.parametrize(
    ("first", "interval"), [("2026-11-30", "P1D"), ("2027-01-31", "P1M"), ("2036-02-29", "P1Y")]
)
def test_looking_no_further_than_something_new_can_come_tells_the_same(
    monkeypatch, zone, first, interval
):
    schedule = recurrence(f"{first}T23:00:00Z[{zone}]", interval, 9_000)
    short = survey(schedule)
    monkeypatch.setattr(surveys, "_is_fixed", lambda _: False)
    assert survey(schedule) == short


def test_what_came_long_ago_is_not_looked_at_and_later_nights_keep_their_numbers():
    schedule = recurrence(f"2020-01-01T02:30:00+01:00[{PARIS}]", "P1D", 9_000)
    whole = survey(schedule)
    assert whole.wrong
    recent = survey(schedule, since=datetime(2037, 12, 1, tzinfo=UTC))
    assert recent.wrong == whole.wrong
    assert (whole.shortest_gap, recent.shortest_gap) == (timedelta(hours=23), timedelta(days=1))


@pytest.mark.parametrize(
    ("zone", "fixed"),
    [("Asia/Kolkata", True), ("Etc/GMT-5", True), (PARIS, False), ("Africa/Casablanca", False)],
)
def test_which_clocks_change_no_more(zone, fixed):
    assert surveys._is_fixed(ZoneInfo(zone)) is fixed  # noqa: SLF001


def test_occurrences_end_with_the_calendar():
    schedule = recurrence("9998-12-31T23:00:00-05:00", "P1D", 400)

    assert not schedule.fits_the_calendar
    assert schedule.after(schedule.last, bounded=False) is None
    assert survey(recurrence("9998-12-31T23:00:00Z", "P5Y", 1)).shortest_gap == timedelta.max


intervals = st.one_of(
    st.builds(Interval, months=st.integers(1, 30)),
    st.builds(Interval, days=st.integers(1, 40)),
    st.builds(Interval, seconds=st.integers(1, 10**6)),
)
zones = st.sampled_from(
    [None, "UTC", PARIS, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Cairo"]
)
starts = st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)


def _starting(first, zone, interval, max_runs):
    return Recurrence.starting(Moment(first, zone, local=False), zone, interval, max_runs)


schedules = st.builds(_starting, starts, zones, intervals, st.integers(1, 60))


@settings(deadline=None, max_examples=80)
@given(schedules)
def test_there_are_exactly_max_runs_occurrences_strictly_one_after_the_other(schedule):
    moments = list(schedule.occurrences())

    assert len(moments) == schedule.max_runs
    assert all(due > before for before, due in pairwise(moments))


@settings(deadline=None, max_examples=80)
@given(schedules)
def test_the_shortest_gap_is_the_shortest_of_those_before_the_first_wrong_night(schedule):
    surveyed = survey(schedule)
    right = surveyed.wrong.number - 1 if surveyed.wrong else schedule.max_runs
    moments = list(islice(schedule.occurrences(), right))
    shortest = min((due - before for before, due in pairwise(moments)), default=timedelta.max)

    assert surveyed.shortest_gap > timedelta(0)
    assert surveyed.shortest_gap <= shortest  # the moment after the last counts too
    assert surveyed.shortest_gap == shortest or not surveyed.wrong


@settings(deadline=None, max_examples=80)
@given(schedules)
@example(_starting(datetime(2026, 7, 9, 6, tzinfo=UTC), "America/New_York", Interval(months=7), 9))
def test_each_occurrence_is_the_calendar_step_away_that_its_number_says(schedule):
    step = schedule.interval
    start = pendulum.instance(schedule.start, tz=None)
    for steps, moment in enumerate(islice(schedule.occurrences(), 20)):
        stepped = start.add(
            months=steps * step.months, days=steps * step.days, seconds=steps * step.seconds
        )
        # A plain datetime, because of pendulum's dateutil says that every hour exists.
        wall = datetime.fromisoformat(stepped.isoformat())
        clock = tz.gettz(schedule.timezone)
        if tz.datetime_exists(wall.replace(tzinfo=clock)):
            assert moment.astimezone(clock).replace(tzinfo=None, fold=0) == wall


@settings(deadline=None, max_examples=80)
@given(schedules, st.integers(0, 200), st.integers(-1, 1))
def test_latest_after_and_number_agree(schedule, index, seconds):
    moments = list(schedule.occurrences())
    moment = moments[index % len(moments)] + timedelta(seconds=seconds) / 2
    before = [due for due in moments if due <= moment]
    later = [due for due in moments if due > moment]

    assert schedule.latest_at(moment) == (before[-1] if before else None)
    assert schedule.after(moment) == (later[0] if later else None)
    assert list(schedule.occurrences(after=moment)) == later
    assert schedule.after(moment, bounded=False) == (
        later[0] if later else schedule.after(schedule.last, bounded=False)
    )
    assert schedule.number_of(moment) == (len(before) if moment in moments else None)


@settings(deadline=None, max_examples=50)
@given(schedules)
def test_the_server_agrees_with_any_schedule(schedule):
    assert list(schedule.occurrences()) == laid_out_by_the_server(schedule)
