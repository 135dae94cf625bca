"""How moments and time zones are written on the wire, read strictly.

A moment is RFC 3339 with an optional RFC 9557 time zone behind it. pydantic also takes a timestamp
without an offset, which a schedule cannot afford. Every ValueError here continues a sentence that
begins with a field's name.
"""

import re
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, datetime, tzinfo

from dateutil import tz
from prefect.client.schemas.schedules import is_valid_timezone

from flows.refusals import brief

_MOMENT = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt](?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})"
    r"(?:\.(?P<fraction>[0-9]+))?(?P<offset>[Zz]|[+-][0-9]{2}:[0-9]{2})?"
    r"(?:\[!?(?P<zone>[A-Za-z][A-Za-z0-9_+/-]*)\])?"
)


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


def find_zone(name: str) -> tzinfo:
    """The clock of an IANA time zone, by the database that Prefect's schedules use.

    Raises:
        ValueError: No such zone.
    """
    zone = tz.gettz(name) if is_valid_timezone(name) else None
    if zone is None:
        raise ValueError(f"{brief(name)} is not a known IANA time zone such as 'Europe/Paris'")
    return zone


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
