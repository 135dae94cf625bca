"""How the fields of a request have to fit together, and what the clock says about a new one."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pendulum

from flows.durations import parse_wait
from flows.moments import find_zone, parse_moment
from flows.recurrence import Recurrence
from flows.refusals import FieldError

if TYPE_CHECKING:  # the contract asks these rules
    from flows.contract import DailyOrdersBatchCloseConfigRequest


@dataclass(frozen=True)
class Admission:
    """What only a new request is held against: the clock, and the shortest interval allowed.

    And what takes long to find out, for every occurrence has to be laid out: a night reads its
    request three times.
    """

    now: datetime
    shortest: timedelta


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
    if not recurrence.fits_the_calendar:
        yield FieldError("maxRuns", f"{request.max_runs} leads beyond the year 9999; use fewer")
    gap = recurrence.shortest_gap()
    if request.upstream_wait >= gap - request.replication_delay:
        yield _waits_too_long(request, gap)
    if gap < admission.shortest:
        reason = f"{request.interval!r} is too short; use {_words(admission.shortest)} or more"
        yield FieldError("interval", reason)
    if recurrence.first <= admission.now:
        upcoming = recurrence.after(admission.now, bounded=False)
        later = (
            f"the next moment is {_local(upcoming, request)}"
            if upcoming
            else "nor is any later moment"
        )
        yield FieldError("firstRunAt", f"{request.first_run_at!r} is not in the future; {later}")


def _local(moment: datetime, request: "DailyOrdersBatchCloseConfigRequest") -> str:
    if request.zone:
        return f"{moment.astimezone(find_zone(request.zone)).isoformat()}[{request.zone}]"
    return moment.astimezone(parse_moment(request.first_run_at).at.tzinfo).isoformat()


def _words(length: timedelta) -> str:
    return pendulum.duration(seconds=length.total_seconds()).in_words(locale="en")
