"""How moments and time zones are written on the wire, read strictly.

A moment is RFC 3339 with an optional RFC 9557 time zone behind it. pydantic also takes a timestamp
without an offset, which a schedule cannot afford. Every ValueError here continues a sentence that
begins with a field's name.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dateutil import tz
from prefect.client.schemas.schedules import is_valid_timezone

from flows.refusals import brief

_MOMENT = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt](?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})"
    r"(?:\.(?P<fraction>[0-9]+))?(?P<offset>[Zz]|[+-][0-9]{2}:[0-9]{2})?"
    r"(?:\[!?(?P<zone>[A-Za-z][A-Za-z0-9_+/-]*)\])?"
)

_NONE = timedelta(0)


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

    def wall_clock_in(self, zone: str) -> datetime:
        """What clocks in the zone show at that moment, naive.

        A caller who wrote local time is taken at their word: a later version of the IANA database
        may have another offset for that day, and 23:00 stays 23:00.
        """
        there = self.at if self.local else self.at.astimezone(find_zone(zone))
        return there.replace(tzinfo=None, fold=0)

    def check_offset_in(self, zone: str) -> None:
        """Check that the offset is the zone's at that moment (RFC 9557 section 3.4).

        Raises:
            ValueError: It is not, or clocks in the zone skip that time of that day.
        """
        there = self.at.astimezone(find_zone(zone))
        if not self.local or there.utcoffset() == self.at.utcoffset():
            return
        if _is_skipped(self.at.replace(tzinfo=there.tzinfo)):
            raise ValueError(f"{self.at.isoformat()} is skipped by the clocks of {zone} that day")
        raise ValueError(
            f"{self.at.isoformat()} does not agree with {zone}, "
            f"where that moment is {there.isoformat()}"
        )

    def check_is_first_in(self, zone: str) -> None:
        """Check that clocks in the zone show that time of that day for the first time.

        Raises:
            ValueError: It is the second time, after the clocks were set back.
        """
        there = self.at.astimezone(find_zone(zone))
        if there.fold:
            raise ValueError(
                f"{self.at.isoformat()} is the second {there:%H:%M} of a night on which {zone} "
                "sets its clocks back; a schedule means the first, so begin there or on another day"
            )


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
    at = _on_the_calendar(match)
    if zone is not None:
        find_zone(zone)
    return Moment(at, zone, local=offset not in {"Z", "z", "-00:00"})


def find_zone(name: str) -> ZoneInfo:
    """The clock of an IANA time zone that Prefect's schedules know too.

    Raises:
        ValueError: No such zone.
    """
    # Each has a database of its own, and a zone that dateutil lacks is laid out as if it were none.
    if is_valid_timezone(name) and tz.gettz(name) is not None:
        with suppress(ZoneInfoNotFoundError):
            return ZoneInfo(name)
    raise ValueError(f"{brief(name)} is not a known IANA time zone such as 'Europe/Paris'")


def offset_of(wall_clock: datetime, zone: ZoneInfo) -> timedelta:
    """The UTC offset by which a schedule reads what the zone's clocks show.

    A time that comes twice means the first; one that a clock change skips comes that much earlier,
    by the offset after the change. Both are the earlier of its two readings.
    """
    before = zone.utcoffset(wall_clock) or _NONE
    after = zone.utcoffset(wall_clock.replace(fold=1)) or _NONE
    return max(after, before)


def _is_skipped(moment: datetime) -> bool:
    back = moment.astimezone(UTC).astimezone(moment.tzinfo)
    return back.replace(tzinfo=None) != moment.replace(tzinfo=None)


def _on_the_calendar(match: re.Match[str]) -> datetime:
    try:
        at = datetime.fromisoformat(f"{match['date']}T{match['time']}{match['offset'].upper()}")
    except ValueError:
        raise ValueError(
            f"{brief(match.string)} is not a moment on the calendar and clock"
        ) from None
    if at.year in {MINYEAR, MAXYEAR}:
        # Elsewhere on earth such a moment can lie in a year that Python cannot count.
        raise ValueError(f"{brief(match.string)} is at the very end of the calendar")
    return at
