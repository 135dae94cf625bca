"""How durations are written on the wire: ISO 8601, read strictly.

pendulum and pydantic read it more leniently than a schedule can afford: "P1M2D" and "PT" pass
there. Every ValueError here continues a sentence that begins with a field's name.
"""

import re
from dataclasses import dataclass
from datetime import timedelta

from flows.refusals import brief

_NUMBER = r"[0-9]{1,9}(?:[.,][0-9]{1,9})?"
_DURATION = re.compile(
    rf"(-?)P(?=[0-9T])(?:(?P<years>{_NUMBER})Y)?(?:(?P<months>{_NUMBER})M)?"
    rf"(?:(?P<weeks>{_NUMBER})W)?(?:(?P<days>{_NUMBER})D)?"
    rf"(?:T(?=[0-9])(?:(?P<hours>{_NUMBER})H)?(?:(?P<minutes>{_NUMBER})M)?"
    rf"(?:(?P<seconds>{_NUMBER})S)?)?"
)


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


def _read_duration(text: object) -> tuple[int, int, timedelta]:
    """Months, days and the time part, which together are longer than nothing."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"{brief(text)} is not an ISO 8601 duration such as 'P1D', 'PT6H' or 'PT15M'"
        )
    size = _sizes(match)
    months = int(size.pop("years", 0) * 12 + size.pop("months", 0))
    days = int(size.pop("weeks", 0) * 7 + size.pop("days", 0))
    try:
        time = timedelta(**size)
        total = timedelta(days=31 * months + days) + time
    except OverflowError:
        raise ValueError(f"{brief(text)} is longer than the calendar") from None
    if match[1] or not total:
        raise ValueError(f"{brief(text)} is not positive; it must be longer than nothing")
    return months, days, time


def _sizes(match: re.Match[str]) -> dict[str, float]:
    """How much there is of each unit that is written."""
    written = {unit: number for unit, number in match.groupdict().items() if number}
    *larger, (smallest, last) = written.items()
    fractional = not last.isdigit() and smallest not in {"hours", "minutes", "seconds"}
    if fractional or not all(number.isdigit() for _, number in larger):
        raise ValueError(
            f"{brief(match.string)} has a fraction where none can be: "
            "only the last of hours, minutes and seconds may have one"
        )
    return {unit: float(number.replace(",", ".")) for unit, number in written.items()}
