"""In every zone of the IANA database a night comes at the right time, or it is refused before.

What is right is told by zoneinfo, and here without its notion of `fold`: only by what clocks in the
zone show at a moment of UTC. What Prefect's server would do is told by its own schedule.
"""

import re
from calendar import monthrange
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfo, available_timezones

import pytest
from dateutil import tz
from prefect.client.schemas.schedules import is_valid_timezone
from prefect.server.schemas.schedules import RRuleSchedule

from flows.admission import InvalidRequestError, parse_request
from flows.contract import DailyOrdersBatchCloseConfigRequest

DAY = timedelta(days=1)
ZONES = sorted(zone for zone in available_timezones() if is_valid_timezone(zone))
MISREAD = ["Europe/Dublin", "Africa/Casablanca", "Africa/El_Aaiun"]


@cache
def alike() -> Sequence[str]:
    """One zone of each kind: many are links to another, the same file by another name."""
    return list({_file(zone): zone for zone in ZONES}.values())


def _file(zone: str) -> bytes | str:
    files = (Path(folder, zone) for folder in TZPATH)
    return next((file.read_bytes() for file in files if file.is_file()), zone)


def truth(wall_clock: datetime, zone: ZoneInfo) -> datetime:
    """The first moment at which the zone's clocks show this; else that much before the change."""
    around = {
        (wall_clock + aside).replace(tzinfo=UTC).astimezone(zone).utcoffset() or timedelta(0)
        for aside in (-DAY, DAY)
    }
    readings = sorted((wall_clock - offset).replace(tzinfo=UTC) for offset in around)
    shown = [it for it in readings if it.astimezone(zone).replace(tzinfo=None) == wall_clock]
    return (shown or readings)[0]


def request(first: datetime, zone: str, interval: str, max_runs: int) -> dict[str, object]:
    return {
        "tenantId": "acme",
        "batchId": "eod",
        "firstRunAt": f"{first.astimezone(ZoneInfo(zone)).isoformat()}[{zone}]",
        "interval": interval,
        "maxRuns": max_runs,
    }


def refusal(asked: dict[str, object], first: datetime) -> str | None:
    try:
        parse_request(asked, now=first - DAY)
    except InvalidRequestError as error:
        return str(error)
    return None


def named(text: str) -> tuple[datetime, datetime, int]:
    """The wrong night that a refusal names, when Prefect would start it, and how many are right."""
    due, started = re.findall(r"(?:is|at) (\d{4}-\d\d-\d\dT[0-9:+-]+)", text)
    most = re.search(r"use (\d+) at most", text)
    right = int(most[1]) if most else 0
    assert text.startswith("maxRuns" if right else "firstRunAt")
    return datetime.fromisoformat(due), datetime.fromisoformat(started), right


def laid_out_by_prefect(asked: dict[str, object]) -> list[datetime]:
    schedule = DailyOrdersBatchCloseConfigRequest.model_validate(asked).recurrence
    nights = RRuleSchedule(rrule=schedule.rrule, timezone=schedule.timezone).to_rrule()
    return [night.astimezone(UTC) for night in nights]


def is_refused(zone: str, wall_clocks: list[datetime], step: str) -> bool:
    """Whether it is: it has to be for the first night that Prefect would get wrong, and only so."""
    right = [truth(shown, ZoneInfo(zone)) for shown in wall_clocks]
    asked = request(right[0], zone, step, len(right))
    laid_out = laid_out_by_prefect(asked)
    wrong = [i for i, (due, night) in enumerate(zip(right, laid_out, strict=True)) if due != night]
    refused = refusal(asked, right[0])

    assert bool(refused) == bool(wrong), (asked, refused)
    if refused:
        assert named(refused) == (right[wrong[0]], laid_out[wrong[0]], wrong[0]), asked
    return bool(refused)


def every_day(first: date, clock: str, days: int) -> list[datetime]:
    start = datetime.fromisoformat(f"{first}T{clock}")
    return [start + night * DAY for night in range(days)]


def every_month(day: int, months: int, count: int) -> list[datetime]:
    """So many steps of months, from January 2027 on, at half past two."""
    nights = []
    for steps in range(count):
        years, month = divmod(steps * months, 12)
        last = monthrange(2027 + years, month + 1)[1]
        nights.append(datetime(2027 + years, month + 1, min(day, last), 2, 30))  # noqa: DTZ001
    return nights


@pytest.mark.parametrize("clock", ["00:30", "01:30", "02:30", "12:00", "23:00"])
def test_every_night_in_every_zone_is_right_or_refused_with_the_first_that_is_not(clock):
    nights = every_day(date(2026, 1, 1), clock, 400)
    refused = {_file(zone) for zone in alike() if is_refused(zone, nights, "P1D")}

    assert refused <= {_file(zone) for zone in MISREAD}


@pytest.mark.parametrize("clock", ["00:30", "01:30", "02:30", "12:00", "23:00"])
def test_so_it_is_where_prefect_knows_no_more_changes_of_the_clocks(clock):
    nights = every_day(date(2037, 1, 1), clock, 400)
    refused = [zone for zone in alike() if is_refused(zone, nights, "P1D")]

    assert 0 < len(refused) < len(alike())


@pytest.mark.parametrize("day", [1, 31])
@pytest.mark.parametrize(("step", "months", "runs"), [("P1M", 1, 160), ("P1Y", 12, 14)])
def test_months_and_years_in_every_zone_are_right_or_refused(step, months, runs, day):
    nights = every_month(day, months, runs)
    refused = [zone for zone in alike() if is_refused(zone, nights, step)]

    assert 0 < len(refused) < len(alike())


def test_every_zone_that_prefect_knows_is_taken():
    first = datetime(2026, 12, 1, 12, tzinfo=UTC)

    assert len(ZONES) > 500
    assert not [zone for zone in ZONES if refusal(request(first, zone, "P1D", 1), first)]


def test_prefects_engine_knows_no_change_in_any_zone_after_january_2038():
    later = [datetime(2038, 1, 22) + weeks * timedelta(weeks=3) for weeks in range(150)]  # noqa: DTZ001
    for zone in alike():
        engine = tz.gettz(zone)
        assert len({engine.utcoffset(shown) for shown in later}) == 1, zone


@pytest.mark.parametrize(
    ("zone", "clock", "wrong"),
    [
        ("Europe/Dublin", "01:30", date(2027, 3, 28)),
        ("Europe/Dublin", "02:30", date(2027, 10, 31)),
        ("Africa/Casablanca", "02:30", date(2027, 3, 14)),
        ("Africa/El_Aaiun", "02:30", date(2027, 3, 14)),
    ],
)
def test_a_night_that_prefect_misreads_is_refused_and_what_to_do_instead_is_right(
    zone, clock, wrong
):
    begin = date(2027, 1, 1)
    nights = every_day(begin, clock, 365)
    first = truth(nights[0], ZoneInfo(zone))
    told = refusal(request(first, zone, "P1D", 365), first) or ""

    assert is_refused(zone, nights, "P1D")
    assert f"is due at {wrong}T" in told
    assert f"which misreads the clock changes of {zone}" in told
    assert told.endswith("at most, or another time of day or an offset without a time zone")
    assert not is_refused(zone, nights[: (wrong - begin).days], "P1D")
    assert not is_refused(zone, every_day(begin, "23:00", 365), "P1D")


@pytest.mark.parametrize("clock", ["00:30", "01:30", "02:30"])
@pytest.mark.parametrize("zone", MISREAD)
def test_a_first_run_on_a_night_that_prefect_misreads_is_right_or_refused(zone, clock):
    nights = every_day(date(2027, 1, 1), clock, 365)
    refused = [night for night in nights if is_refused(zone, [night], "P1D")]

    assert len(refused) <= 1


def test_half_past_two_after_the_clocks_changed_in_dublin_is_not_taken_for_a_second():
    first = datetime(2026, 10, 25, 2, 30, tzinfo=UTC)

    assert refusal(request(first, "Europe/Dublin", "P1D", 1), first) == (
        "firstRunAt is 2026-10-25T02:30:00+00:00[Europe/Dublin], but would be started at "
        "2026-10-25T01:30:00+00:00 by Prefect, which misreads the clock changes of Europe/Dublin; "
        "use another time of day or an offset without a time zone"
    )


def test_a_real_second_in_dublin_is_told_so():
    second = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    told = refusal(request(second, "Europe/Dublin", "P1D", 1), second) or ""

    assert "is the second 01:30 of a night on which Europe/Dublin sets its clocks back" in told


def test_a_first_run_in_a_summer_after_2037_is_refused_with_the_true_reason():
    first = datetime(2040, 7, 1, 21, tzinfo=UTC)
    asked = request(first, "Europe/Paris", "P1D", 1)
    told = refusal(asked, first)

    assert told == (
        "firstRunAt is 2040-07-01T23:00:00+02:00[Europe/Paris], but would be started at "
        "2040-07-02T00:00:00+02:00 by Prefect, which knows clock changes up to 2037 only; "
        "use an offset without a time zone"
    )
    assert refusal({**asked, "firstRunAt": "2040-07-01T21:00:00Z[Europe/Paris]"}, first) == told
    assert refusal({**asked, "firstRunAt": "2040-07-01T23:00:00+02:00"}, first) is None


@pytest.mark.parametrize(
    ("step", "max_runs", "told"),
    [
        ("P1D", 100_000, "run 4136 is due at 2038-03-28T23:00:00+02:00[Europe/Paris]"),
        ("P1W", 700, "run 592 is due at 2038-03-30T23:00:00+02:00[Europe/Paris]"),
        ("P1M", 200, "run 137 is due at 2038-04-01T23:00:00+02:00[Europe/Paris]"),
    ],
)
def test_a_schedule_that_runs_past_2037_is_told_how_many_runs_are_possible(step, max_runs, told):
    first = datetime(2026, 12, 1, 22, tzinfo=UTC)
    refused = refusal(request(first, "Europe/Paris", step, max_runs), first) or ""
    right = named(refused)[2]

    assert refused.startswith(f"maxRuns {max_runs} is too many, because {told}, but would be ")
    assert refused.endswith(f"use {right} at most, or an offset without a time zone")
    assert refusal(request(first, "Europe/Paris", step, right), first) is None
    assert refusal(request(first, "UTC", step, max_runs), first) is None


def test_a_schedule_that_only_meets_winters_may_run_past_2037():
    first = datetime(2026, 12, 1, 22, tzinfo=UTC)

    assert refusal(request(first, "Europe/Paris", "P1Y", 100), first) is None


@pytest.mark.parametrize("zone", ["Europe/Paris", "Europe/Dublin", "Asia/Kolkata", "Etc/GMT+5"])
async def test_prefects_server_starts_an_accepted_schedule_at_the_true_moments(zone):
    nights = every_day(date(2027, 1, 1), "23:00", 400)
    right = [truth(shown, ZoneInfo(zone)) for shown in nights]
    schedule = parse_request(request(right[0], zone, "P1D", 400), now=right[0] - DAY).recurrence

    server = RRuleSchedule(rrule=schedule.rrule, timezone=schedule.timezone)
    runs = await server.get_dates(n=401, start=right[0] - DAY)
    assert [run.astimezone(UTC) for run in runs] == right
