"""How the fields of a request have to fit together, and what the clock says about a new one."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pendulum

from flows.durations import parse_wait
from flows.moments import find_zone, parse_moment
from flows.recurrence import Recurrence
from flows.refusals import FieldError
from flows.survey import LAST_YEAR_OF_CHANGES, WrongNight, survey

if TYPE_CHECKING:  # the contract asks these rules
    from flows.contract import DailyOrdersBatchCloseConfigRequest


@dataclass(frozen=True)
class Admission:
    """What only a new request is held against: the clock, and the shortest interval allowed.

    And what takes some time to find out, for occurrences have to be laid out: a night reads its
    request three times.
    """

    now: datetime
    shortest: timedelta


SINCE = datetime(2026, 1, 1, tzinfo=UTC)
"""No request was ever accepted whose nights began before this: older ones are not laid out."""

NO_PATH_SEGMENTS = (".", "..")
"""No name: in a URL's path these are removed, encoded or not (RFC 3986 5.2.4)."""


def name_errors(request: "DailyOrdersBatchCloseConfigRequest") -> Iterator[FieldError]:
    """Which of a new request's names could not stand in a path, by which a batch is found."""
    for field, name in (("tenantId", request.tenant_id), ("batchId", request.batch_id)):
        if name in NO_PATH_SEGMENTS:
            yield FieldError(field, f"is {name!r}, which cannot stand in a URL's path")


def schedule_errors(
    request: "DailyOrdersBatchCloseConfigRequest", admission: Admission | None
) -> Iterator[FieldError]:
    """What is wrong with the schedule and the waits together, each field being right by itself."""
    suffix = parse_moment(request.first_run_at).zone
    if suffix and request.zone != suffix:
        yield FieldError("timeZone", f"{request.zone!r} is not firstRunAt's zone, {suffix!r}")
        return
    try:
        recurrence = request.recurrence
    except ValueError as error:
        yield FieldError("firstRunAt", str(error))
        return
    if admission:
        yield from _admission_errors(request, recurrence, admission)


def _waits_too_long(request: "DailyOrdersBatchCloseConfigRequest", gap: timedelta) -> FieldError:
    waits = {
        "upstreamWaitDuration": request.upstream_wait_duration,
        "replicationDelayDuration": request.replication_delay_duration,
    }
    other, longer = sorted(waits, key=lambda field: parse_wait(waits[field]))
    return FieldError(
        longer,
        f"{waits[longer]!r} and {other} {waits[other]!r} together reach the next run; they must "
        f"be shorter than {_words(gap)}, the shortest time between two runs",
    )


def _admission_errors(
    request: "DailyOrdersBatchCloseConfigRequest", recurrence: Recurrence, admission: Admission
) -> Iterator[FieldError]:
    if error := _start_error(request, recurrence):
        yield error
        return
    past = recurrence.first <= admission.now
    surveyed = survey(recurrence, since=max(admission.now, SINCE))
    gap = surveyed.shortest_gap
    if surveyed.wrong and not past:  # from a later start on, other nights come
        yield _wrong_night(surveyed.wrong, request)
    elif not recurrence.fits_the_calendar:
        yield FieldError("maxRuns", f"{request.max_runs} leads beyond the year 9999; use fewer")
    if request.upstream_wait >= gap - request.replication_delay:
        yield _waits_too_long(request, gap)
    if gap < admission.shortest:
        reason = f"{request.interval!r} is too short; use {_words(admission.shortest)} or more"
        yield FieldError("interval", reason)
    if past:
        yield _past(request, recurrence, admission)


def _start_error(
    request: "DailyOrdersBatchCloseConfigRequest", recurrence: Recurrence
) -> FieldError | None:
    """Whether firstRunAt means one moment, by the IANA database as it is today.

    A stored request is not asked again: by then the database may have changed its mind.
    """
    first = parse_moment(request.first_run_at)
    try:
        if request.zone:
            first.check_offset_in(request.zone)
        first.check_is_first_in(recurrence.timezone)
    except ValueError as error:
        return FieldError("firstRunAt", str(error))
    return None


def _past(
    request: "DailyOrdersBatchCloseConfigRequest", recurrence: Recurrence, admission: Admission
) -> FieldError:
    upcoming = recurrence.after(admission.now, bounded=False)
    later = (
        f"the next moment is {_local(upcoming, request)}" if upcoming else "nor is any later moment"
    )
    return FieldError("firstRunAt", f"{request.first_run_at!r} is not in the future; {later}")


def _wrong_night(wrong: WrongNight, request: "DailyOrdersBatchCloseConfigRequest") -> FieldError:
    remedy = "an offset without a time zone"
    if wrong.due.year >= LAST_YEAR_OF_CHANGES:
        cause = f"which knows clock changes up to {LAST_YEAR_OF_CHANGES} only"
    else:
        cause = f"which misreads the clock changes of {request.zone}"
        remedy = f"another time of day or {remedy}"
    due = f"{wrong.due.isoformat()}[{request.zone}]"
    fault = f"{due}, but would be started at {wrong.started.isoformat()} by Prefect, {cause}"
    if wrong.number == 1:
        return FieldError("firstRunAt", f"is {fault}; use {remedy}")
    return FieldError(
        "maxRuns",
        f"{request.max_runs} is too many, because run {wrong.number} is due at {fault}; "
        f"use {wrong.number - 1} at most, or {remedy}",
    )


def _local(moment: datetime, request: "DailyOrdersBatchCloseConfigRequest") -> str:
    if request.zone:
        return f"{moment.astimezone(find_zone(request.zone)).isoformat()}[{request.zone}]"
    return moment.astimezone(parse_moment(request.first_run_at).at.tzinfo).isoformat()


def _words(length: timedelta) -> str:
    return pendulum.duration(seconds=length.total_seconds()).in_words(locale="en")
