"""How durations and moments are written on the wire, read strictly.

Durations are ISO 8601, moments are RFC 3339 with an optional RFC 9557 time zone behind them.
pendulum and pydantic read both more leniently than a schedule can afford: "P1M2D", "PT" and a
timestamp without an offset pass there. Every ValueError here continues a sentence that begins
with a field's name.
"""

import os
import re
import reprlib
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, datetime, timedelta, tzinfo

from dateutil import tz
from prefect.client.schemas.schedules import is_valid_timezone

_NUMBER = r"[0-9]{1,9}(?:[.,][0-9]{1,9})?"
_DURATION = re.compile(
    rf"P(?=[0-9T])(?:(?P<years>{_NUMBER})Y)?(?:(?P<months>{_NUMBER})M)?"
    rf"(?:(?P<weeks>{_NUMBER})W)?(?:(?P<days>{_NUMBER})D)?"
    rf"(?:T(?=[0-9])(?:(?P<hours>{_NUMBER})H)?(?:(?P<minutes>{_NUMBER})M)?"
    rf"(?:(?P<seconds>{_NUMBER})S)?)?"
)
_MOMENT = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt](?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})"
    r"(?:\.(?P<fraction>[0-9]+))?(?P<offset>[Zz]|[+-][0-9]{2}:[0-9]{2})?"
    r"(?:\[!?(?P<zone>[A-Za-z][A-Za-z0-9_+/-]*)\])?"
)
_BRIEF = 60


@dataclass(frozen=True)
class Interval:
    """The step from one occurrence to the next; exactly one of its three counts is not zero.

    Attributes:
        months: Calendar months; a year is twelve of them.
        days: Calendar days; a week is seven of them.
        seconds: Exact elapsed seconds, for every interval that has a time part.
    """

    months: int = 0
    days: int = 0
    seconds: int = 0


@dataclass(frozen=True)
class Moment:
    """A moment as the caller wrote it.

    Attributes:
        at: The moment, aware, at the caller's own offset.
        zone: The IANA zone of the RFC 9557 suffix, if there is one.
        local: Whether the offset says what local time is; "Z" and "-00:00" only say where UTC is
            (RFC 9557 section 2), so they agree with every zone.
    """

    at: datetime
    zone: str | None
    local: bool

    def check_offset_in(self, zone: str) -> None:
        """Check that the offset is the zone's at that moment (RFC 9557 section 3.4).

        Raises:
            ValueError: It is not, or clocks in the zone skip that time of that day.
        """
        clock = find_zone(zone)
        there = self.at.astimezone(clock)
        if not self.local or there.utcoffset() == self.at.utcoffset():
            return
        if not tz.datetime_exists(self.at.replace(tzinfo=clock)):
            raise ValueError(f"{self.at.isoformat()} is skipped by the clocks of {zone} that day")
        raise ValueError(
            f"{self.at.isoformat()} does not agree with {zone}, "
            f"where that moment is {there.isoformat()}"
        )


def parse_interval(text: object) -> Interval:
    """Read an ISO 8601 duration as the step of a schedule; a day beside hours is exactly 24 hours.

    Raises:
        ValueError: It is no duration, not positive, not whole seconds, or mixes months with less.
    """
    months, days, time = _read_duration(text)
    if months and (days or time):
        raise ValueError(f"{brief(text)} mixes months or years with smaller units; use either")
    if time % timedelta(seconds=1):
        raise ValueError(f"{brief(text)} is not a whole number of seconds")
    if time:
        return Interval(seconds=(timedelta(days=days) + time) // timedelta(seconds=1))
    return Interval(months=months, days=days)


def parse_wait(text: object) -> timedelta:
    """Read an ISO 8601 duration as an exact wait; a day is exactly 24 hours.

    Raises:
        ValueError: It is no duration, not positive, or has years or months, whose length varies.
    """
    months, days, time = _read_duration(text)
    if months:
        raise ValueError(
            f"{brief(text)} has years or months, whose length varies; "
            "a wait is exact: use weeks, days, hours, minutes or seconds"
        )
    return timedelta(days=days) + time


def shortest_interval() -> timedelta:
    """The shortest interval that is accepted: BATCH_CLOSE_SHORTEST_INTERVAL, one minute unless set.

    A demonstration sets it to a few seconds; nobody's day ends every minute.
    """
    name = "BATCH_CLOSE_SHORTEST_INTERVAL"
    try:
        return parse_wait(os.environ.get(name, "PT1M"))
    except ValueError as error:
        raise ValueError(f"the environment variable {name} {error}") from error


def parse_moment(text: object) -> Moment:
    """Read an RFC 3339 timestamp (section 5.6), optionally with a zone behind it (RFC 9557).

    Raises:
        ValueError: It is no timestamp, has no offset, a fraction of a second or an unknown zone,
            or is not on the calendar; leap seconds are not, nor are its first and last year.
    """
    match = _MOMENT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"{brief(text)} is not an RFC 3339 timestamp such as '2026-03-01T23:00:00+01:00' "
            "or '2026-03-01T23:00:00+01:00[Europe/Paris]'"
        )
    offset, zone = match["offset"], match["zone"]
    if offset is None:
        raise ValueError(f"{brief(text)} has no UTC offset; add one such as '+01:00' or 'Z'")
    if (match["fraction"] or "0").strip("0"):
        raise ValueError(f"{brief(text)} has a fraction of a second; use whole seconds")
    try:
        at = datetime.fromisoformat(f"{match['date']}T{match['time']}{offset.upper()}")
    except ValueError:
        raise ValueError(f"{brief(text)} is not a moment on the calendar and clock") from None
    if at.year in {MINYEAR, MAXYEAR}:
        # Elsewhere on earth such a moment can lie in a year that Python cannot count.
        raise ValueError(f"{brief(text)} is at the very end of the calendar")
    if zone is not None:
        find_zone(zone)
    return Moment(at, zone, local=offset not in {"Z", "z", "-00:00"})


def find_zone(name: str) -> tzinfo:
    """The clock of an IANA time zone, by the database that Prefect's schedules use.

    Raises:
        ValueError: No such zone.
    """
    zone = tz.gettz(name) if is_valid_timezone(name) else None
    if zone is None:
        raise ValueError(f"{brief(name)} is not a known IANA time zone such as 'Europe/Paris'")
    return zone


def brief(value: object) -> str:
    """The value for a message: its repr, 60 characters at most."""
    short = reprlib.Repr()
    short.maxstring = _BRIEF
    try:
        text = short.repr(value)
    except ValueError:  # CPython refuses to print integers of thousands of digits
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 3]}..."


def _read_duration(text: object) -> tuple[int, int, timedelta]:
    match = _DURATION.fullmatch(text.removeprefix("-")) if isinstance(text, str) else None
    if match is None or not isinstance(text, str):
        raise ValueError(
            f"{brief(text)} is not an ISO 8601 duration such as 'P1D', 'PT6H' or 'PT15M'"
        )
    written = {unit: number for unit, number in match.groupdict().items() if number}
    *larger, (smallest, number) = written.items()
    fractional = not number.isdigit() and smallest not in {"hours", "minutes", "seconds"}
    if fractional or not all(number.isdigit() for _, number in larger):
        raise ValueError(
            f"{brief(text)} has a fraction where none can be: "
            "only the last of hours, minutes and seconds may have one"
        )
    size = {unit: float(number.replace(",", ".")) for unit, number in written.items()}
    months = int(size.pop("years", 0) * 12 + size.pop("months", 0))
    days = int(size.pop("weeks", 0) * 7 + size.pop("days", 0))
    try:
        time = timedelta(**size)
        total = timedelta(days=31 * months + days) + time
    except OverflowError:
        raise ValueError(f"{brief(text)} is longer than the calendar") from None
    if text.startswith("-") or not total:
        raise ValueError(f"{brief(text)} is not positive; it must be longer than nothing")
    return months, days, time
