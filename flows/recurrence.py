"""firstRunAt, interval and maxRuns as the schedule that Prefect's server lays out.

Every occurrence comes from Prefect's own RFC 5545 engine (dateutil), so what this file says and
what the server schedules is one truth, odd nights included:

- Whole days, weeks, months and years are steps on the local clock: 23:00 stays 23:00 when the
  clocks change. Intervals with a time part (PT6H, P1DT12H) are exact elapsed time.
- A local time that a clock change skips comes that much earlier (02:30 in spring is 01:30 before
  the change); one that comes twice in autumn means the first. No night is skipped or doubled.
- Months from the 29th, 30th or 31st, and years from 29 February, end with the month. RFC 5545
  alone would skip the short months.
- What that engine would lay out at a wrong hour is refused when it is configured (`flows.survey`).
"""

from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import takewhile
from typing import Self

from prefect.client.schemas.schedules import RRuleSchedule

from flows.durations import Interval
from flows.moments import Moment, find_zone

SHORTEST_MONTH = 28
"""Days."""

_HOUR = timedelta(hours=1)
_ETC_HOURS = range(-12, 15)


@dataclass(frozen=True)
class Recurrence:
    """The schedule of one binding.

    Attributes:
        start: The first occurrence on the wall clock of `timezone`, naive as in DTSTART.
        timezone: The IANA zone that the schedule is laid out in.
        interval: The step from one occurrence to the next.
        max_runs: How many occurrences there are.
    """

    start: datetime
    timezone: str
    interval: Interval
    max_runs: int

    @classmethod
    def starting(cls, first: Moment, zone: str | None, interval: Interval, max_runs: int) -> Self:
        """The recurrence from a first moment on, on the zone's clock or else its own offset's.

        Raises:
            ValueError: No schedule of Prefect's can begin at that moment with that step. The
                sentence continues one that begins with "firstRunAt".
        """
        if interval.seconds:
            start = first.at.astimezone(UTC).replace(tzinfo=None)
            return cls(start, "UTC", interval, max_runs)
        if zone:
            return cls(first.wall_clock_in(zone), zone, interval, max_runs)
        clock = _fixed_clock(first.at, interval)
        start = first.at.astimezone(find_zone(clock)).replace(tzinfo=None)
        return cls(start, clock, interval, max_runs)

    @property
    def rrule(self) -> str:
        """The schedule as RFC 5545 text, to go with `timezone` into Prefect's RRuleSchedule."""
        return f"{self._endless_from(self.start)};COUNT={self.max_runs}"

    @cached_property
    def first(self) -> datetime:
        """The first occurrence, in UTC like every moment that this class returns."""
        return next(self.occurrences())

    @cached_property
    def last(self) -> datetime:
        """The last occurrence."""
        if self.fits_the_calendar:
            return next(self._laid_out_from(self.max_runs - 1))
        *_, latest = self.occurrences()
        return latest

    @property
    def fits_the_calendar(self) -> bool:
        """Whether all maxRuns occurrences come before the calendar ends, with the year 9999."""
        return next(self._laid_out_from(self.max_runs - 1), None) is not None

    def occurrences(self, *, after: datetime | None = None) -> Iterator[datetime]:
        """All occurrences in order, or those after a moment."""
        if after is None:
            return _lay_out(self.rrule, self.timezone)
        numbered = takewhile(lambda it: it[0] <= self.max_runs, self._numbered_near(after))
        return (due for _, due in numbered if due > after)

    def latest_at(self, moment: datetime) -> datetime | None:
        """The latest occurrence that is not after the moment."""
        near = self._numbered_near(min(moment, self.last))
        passed = takewhile(lambda it: it[0] <= self.max_runs and it[1] <= moment, near)
        return max((due for _, due in passed), default=None)

    def after(self, moment: datetime, *, bounded: bool = True) -> datetime | None:
        """The next occurrence after the moment; None after the last one.

        Unbounded, the moment at which the next occurrence would be due if maxRuns had no end.
        """
        if bounded:
            return next(self.occurrences(after=moment), None)
        return next((due for _, due in self._numbered_near(moment) if due > moment), None)

    def number_of(self, occurrence: datetime) -> int | None:
        """Which of the maxRuns occurrences this is, from 1 on; None if it is not one of them."""
        for number, due in self._numbered_near(occurrence):
            if due >= occurrence:
                return number if due == occurrence and number <= self.max_runs else None
        return None

    def _numbered_near(self, moment: datetime) -> Iterator[tuple[int, datetime]]:
        """What would be due if maxRuns had no end, from shortly before the moment on.

        The engine counts from DTSTART on; starting it close by spares it the way.
        """
        steps = self.steps_surely_within(moment - self.first)
        return enumerate(self._laid_out_from(steps), start=steps + 1)

    def _laid_out_from(self, steps: int) -> Iterator[datetime]:
        """What would be due if maxRuns had no end, so many steps after the first."""
        try:
            near = self.wall_clock(steps)
        except (OverflowError, ValueError):  # beyond the calendar
            return iter(())
        return _lay_out(self._endless_from(near), self.timezone)

    def wall_clock(self, steps: int) -> datetime:
        """What clocks show so many steps after the first; raises where the calendar ends."""
        step, start = self.interval, self.start
        if not step.months:
            return start + steps * timedelta(days=step.days, seconds=step.seconds)
        years, month = divmod(start.month - 1 + steps * step.months, 12)
        year, month = start.year + years, month + 1
        if start.day > SHORTEST_MONTH:
            start = start.replace(day=min(start.day, monthrange(year, month)[1]))
        return start.replace(year=year, month=month)

    def _endless_from(self, start: datetime) -> str:
        # Not strftime: its %Y writes the year 26 as "26".
        wall_clock = start.isoformat(timespec="seconds").replace("-", "").replace(":", "")
        return f"DTSTART:{wall_clock}\nRRULE:{_rule(self.interval, self.start.day)}"

    def steps_surely_within(self, elapsed: timedelta) -> int:
        """How many steps such a time holds at least."""
        step = self.interval
        longest = timedelta(days=31 * step.months + step.days, seconds=step.seconds)
        # Two steps of grace for clock changes and for zones that move across the date line.
        return max(0, elapsed // longest - 2)


def schedule_of(recurrence: Recurrence) -> RRuleSchedule:
    """The schedule that Prefect lays out for it."""
    return RRuleSchedule(rrule=recurrence.rrule, timezone=recurrence.timezone)


def _lay_out(rrule: str, timezone: str) -> Iterator[datetime]:
    try:
        for moment in RRuleSchedule(rrule=rrule, timezone=timezone).to_rrule():
            yield moment.astimezone(UTC)
    except OverflowError:  # the evening of 31 December 9999 is in the year 10000 of UTC
        return


def _rule(interval: Interval, day: int) -> str:
    if interval.months:
        return f"FREQ=MONTHLY;INTERVAL={interval.months};{_clamped(day)}"
    if interval.days:
        return f"FREQ=DAILY;INTERVAL={interval.days}"
    for frequency, length in (("HOURLY", 3600), ("MINUTELY", 60)):
        if interval.seconds % length == 0:
            return f"FREQ={frequency};INTERVAL={interval.seconds // length}"
    return f"FREQ=SECONDLY;INTERVAL={interval.seconds}"


def _clamped(day: int) -> str:
    candidates = range(min(day, SHORTEST_MONTH), day + 1)
    return f"BYMONTHDAY={','.join(map(str, candidates))};BYSETPOS=-1"


def _fixed_clock(first: datetime, interval: Interval) -> str:
    """The IANA name of a clock that stays at the moment's own offset.

    Days and weeks step alike in UTC and at any offset. Months do not (31 January, 23:30 at -05:00
    is 1 February in UTC), and IANA has fixed offsets in whole hours only.
    """
    offset = first.utcoffset()
    if not interval.months or not offset:
        return "UTC"
    hours, rest = divmod(offset, _HOUR)
    if rest or hours not in _ETC_HOURS:
        raise ValueError(
            f"{first.isoformat()} needs a time zone for steps of months or years, because its "
            "offset is not one of whole hours; add one such as [Asia/Kolkata]"
        )
    return f"Etc/GMT{-hours:+d}"  # POSIX counts westwards: Etc/GMT-1 is +01:00
