"""What only a look at every occurrence of a schedule tells, before it is accepted.

dateutil, Prefect's engine, misreads clock changes of zones whose winter time is the deviation
(Europe/Dublin, Africa/Casablanca), and knows none after 2037. So a new schedule is held against the
whole IANA database here: one that Prefect would lay out differently is refused.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from dateutil import tz

from flows.moments import find_zone, offset_of
from flows.recurrence import SHORTEST_MONTH, Recurrence

_CALENDAR_REPEATS = 12 * 400
"""Months, after which those to come are as long as those before."""

LAST_YEAR_OF_CHANGES = 2037
"""dateutil reads only the 32-bit part of a zone's file (RFC 8536), which ends in January 2038.

It takes what comes after the last change there for standard time: in Sydney from October 2037 on.
"""

_NO_CHANGE_AFTER = datetime(LAST_YEAR_OF_CHANGES + 1, 1, 21)  # noqa: DTZ001

_LISTED_DAYS = 63 * 365
"""From then on, how far the IANA database lists changes one by one: up to 2087, for Morocco and
Gaza. Beyond, the same comes every year."""


@dataclass(frozen=True)
class WrongNight:
    """The first occurrence that Prefect's server would start at a wrong time.

    Attributes:
        number: Which of the maxRuns occurrences it is, from 1 on.
        due: When it is due, on the clock of the schedule's zone.
        started: When Prefect would start it instead, on the same clock.
    """

    number: int
    due: datetime
    started: datetime


@dataclass(frozen=True)
class Survey:
    """What only a look at every occurrence tells.

    Attributes:
        shortest_gap: The shortest elapsed time from an occurrence to the next: 23 hours for P1D in
            spring. The moment after the last counts; timedelta.max if there is none in the
            calendar. Where there is a wrong night, no later gap counts.
        wrong: The first occurrence that comes at a wrong time, if there is one.
    """

    shortest_gap: timedelta
    wrong: WrongNight | None = None


def survey(recurrence: Recurrence, *, since: datetime | None = None) -> Survey:
    """Look at every occurrence, up to the first that Prefect would start at a wrong time.

    Where nothing new can come it looks no further, so it takes milliseconds for any schedule.

    Args:
        recurrence: The schedule.
        since: A moment; what comes before it is not looked at.
    """
    if recurrence.interval.seconds:  # in UTC, where every engine agrees
        return Survey(timedelta(seconds=recurrence.interval.seconds))
    zone, engine = find_zone(recurrence.timezone), _engine_offsets(recurrence.timezone)
    shortest, before = timedelta.max, None
    with suppress(OverflowError):  # the evening of 31 December 9999 is in the year 10000 of UTC
        for number, wall_clock in _wall_clocks(recurrence, since, zone):
            offset = offset_of(wall_clock, zone)
            due = wall_clock - offset
            if number <= recurrence.max_runs and (other := engine(wall_clock)) != offset:
                return Survey(shortest, _wrong_night(number, due, wall_clock - other, zone))
            if before and due - before < shortest:
                shortest = due - before
            before = due
    return Survey(shortest)


def _wall_clocks(
    recurrence: Recurrence, since: datetime | None, zone: ZoneInfo
) -> Iterator[tuple[int, datetime]]:
    """What clocks show at each occurrence to be looked at, and at the moment after the last."""
    begin = recurrence.steps_surely_within(since - recurrence.first) if since else 0
    end = recurrence.max_runs + 1
    if _is_fixed(zone):
        end = min(end, begin + _steps_until_all_is_alike(recurrence, recurrence.wall_clock(begin)))
    with suppress(OverflowError, ValueError):  # beyond the calendar
        for steps in range(begin, end):
            yield steps + 1, recurrence.wall_clock(steps)


def _steps_until_all_is_alike(recurrence: Recurrence, wall_clock: datetime) -> int:
    """After how many steps no new gap comes, where clocks change no more."""
    step = recurrence.interval
    days = max(0, (_NO_CHANGE_AFTER - wall_clock).days)
    steps = days // (SHORTEST_MONTH * step.months + step.days) + 2
    return steps + _CALENDAR_REPEATS if step.months else steps


@lru_cache(maxsize=1000)
def _is_fixed(zone: ZoneInfo) -> bool:
    """Whether the zone's clocks change no more once Prefect's engine knows of no change."""
    days = (_NO_CHANGE_AFTER + timedelta(days=day) for day in range(_LISTED_DAYS))
    at_first = zone.utcoffset(_NO_CHANGE_AFTER)
    return all(zone.utcoffset(day) == at_first for day in days)


def _engine_offsets(timezone: str) -> Callable[[datetime], timedelta]:
    """The UTC offsets by which Prefect's engine reads what clocks in the zone show."""
    zone = tz.gettz(timezone) or UTC  # find_zone refuses a zone that the engine does not know

    def offset(wall_clock: datetime) -> timedelta:
        return zone.utcoffset(wall_clock) or timedelta(0)

    at_last = offset(_NO_CHANGE_AFTER)
    return lambda wall_clock: at_last if wall_clock > _NO_CHANGE_AFTER else offset(wall_clock)


def _wrong_night(number: int, due: datetime, started: datetime, zone: ZoneInfo) -> WrongNight:
    there = (moment.replace(tzinfo=UTC).astimezone(zone) for moment in (due, started))
    return WrongNight(number, *there)
