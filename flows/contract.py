"""What configuring the batch close takes and gives: the seed's contract, camelCase on the wire."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal, Self
from unicodedata import category

import pendulum
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from flows.durations import (
    brief,
    find_zone,
    parse_interval,
    parse_moment,
    parse_wait,
    shortest_interval,
)
from flows.recurrence import Recurrence

MAX_EXTRA_BYTES = 4096
"""Unknown fields are kept as long as their binding lives, so they are bounded, as JSON."""

_NAME = "1 to 200 characters, no control characters, no white space around them"
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # controls, lone surrogates, line and paragraph separators
_TOKENS = {"accesstoken", "refreshtoken", "idtoken", "initialaccesstoken", "authorization"}
_MEMBER = re.compile(r'"([^"\\]+)": ')  # a member's name in the JSON that json.dumps writes
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # valid JSON, but PostgreSQL's jsonb refuses it


@dataclass(frozen=True)
class FieldError:
    """Why one field is refused; `message` continues a sentence that begins with `field`."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field} {self.message}"


class InvalidRequestError(ValueError):
    """The request is refused; `errors` has a reason for every field at fault."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = errors


@dataclass(frozen=True)
class _Admission:
    """What only a new request is held against: the clock, and the shortest interval allowed."""

    now: datetime
    shortest: timedelta


def _read_by(parse: Callable[[object], object]) -> BeforeValidator:
    def check(text: object) -> object:
        parse(text)
        return text

    return BeforeValidator(check)


def _plain(name: str) -> str:
    if name != name.strip() or any(category(character) in _UNPRINTABLE for character in name):
        raise ValueError(f"is {brief(name)}, but must be {_NAME}")
    return name


def _zone(name: str) -> str:
    find_zone(name)
    return name


_Name = Annotated[str, Field(strict=True, min_length=1, max_length=200), AfterValidator(_plain)]
_Moment = Annotated[str, _read_by(parse_moment)]
_Interval = Annotated[str, _read_by(parse_interval)]
_Wait = Annotated[str, _read_by(parse_wait)]
_Zone = Annotated[str, Field(strict=True), AfterValidator(_zone)]


class _Wire(BaseModel):
    # A refused input may hold a token that does not belong in it: never show it.
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, hide_input_in_errors=True
    )


class DailyOrdersBatchCloseConfigRequest(_Wire):
    """The batch to close, and when. Texts stay as the caller wrote them; unknown fields are kept.

    Validating it checks what is always true of a request; `parse_request` also asks the clock.
    """

    model_config = ConfigDict(extra="allow")

    tenant_id: _Name = Field(description=_NAME)
    batch_id: _Name = Field(description=_NAME)
    first_run_at: _Moment = Field(
        description="an RFC 3339 timestamp with an offset, and perhaps an RFC 9557 time zone",
        examples=["2026-12-01T23:00:00+01:00[Europe/Paris]"],
    )
    interval: _Interval = Field(description="an ISO 8601 duration such as 'P1D'", examples=["P1D"])
    max_runs: int = Field(
        strict=True, ge=1, le=100_000, description="a whole number from 1 to 100000"
    )
    upstream_wait_duration: _Wait = Field(
        default="PT15M", description="an ISO 8601 duration without years or months"
    )
    replication_delay_duration: _Wait = Field(
        default="PT5M", description="an ISO 8601 duration without years or months"
    )
    time_zone: _Zone | None = Field(
        default=None, description="an IANA time zone such as 'Europe/Paris'"
    )

    @property
    def zone(self) -> str | None:
        """The time zone whose clock the schedule keeps, from either of the two places for it."""
        return self.time_zone or parse_moment(self.first_run_at).zone

    @property
    def recurrence(self) -> Recurrence:
        """All occurrences that the request asks for."""
        return _recurrence(self.first_run_at, self.zone, self.interval, self.max_runs)

    @property
    def upstream_wait(self) -> timedelta:
        """How long upstream systems get after the scheduled moment."""
        return parse_wait(self.upstream_wait_duration)

    @property
    def replication_delay(self) -> timedelta:
        """How long replication gets after the snapshot."""
        return parse_wait(self.replication_delay_duration)

    @model_validator(mode="after")
    def _agrees_with_itself(self, info: ValidationInfo) -> Self:
        admission = info.context.get("admission") if info.context else None
        if errors := [*_extra_errors(self), *_schedule_errors(self, admission)]:
            raise InvalidRequestError(errors)
        return self


class DailyOrdersBatchCloseConfigOutcome(_Wire):
    """What was scheduled; `cadence` says by which clock, because an offset alone never changes."""

    status: Literal["SCHEDULED"] = "SCHEDULED"
    tenant_id: str
    batch_id: str
    first_run_at: str
    interval: str
    max_runs: int
    time_zone: str | None = None
    cadence: str

    @classmethod
    def of(cls, request: DailyOrdersBatchCloseConfigRequest) -> Self:
        """The outcome of a request whose schedule stands."""
        return cls(
            tenant_id=request.tenant_id,
            batch_id=request.batch_id,
            first_run_at=request.first_run_at,
            interval=request.interval,
            max_runs=request.max_runs,
            time_zone=request.zone,
            cadence=_cadence(request),
        )


def parse_request(data: Mapping[str, Any], *, now: datetime) -> DailyOrdersBatchCloseConfigRequest:
    """Read a new request, whose firstRunAt must be after `now`.

    A stored request is read with `model_validate`: its firstRunAt is past for good reason, and a
    short interval was allowed when it came.

    Raises:
        InvalidRequestError: With a reason for each field at fault; how the fields fit together is
            judged once each is right by itself.
        ValueError: BATCH_CLOSE_SHORTEST_INTERVAL, the operator's setting, is no duration.
    """
    values = dict(data) if isinstance(data, Mapping) else data
    context = {"admission": _Admission(now, shortest_interval())}
    try:
        return DailyOrdersBatchCloseConfigRequest.model_validate(values, context=context)
    except ValidationError as refusal:
        errors = [error for detail in refusal.errors() for error in _field_errors(detail)]
    # Not inside "except": pydantic's error would come along, with the input that it holds.
    raise InvalidRequestError(errors)


def _field_errors(detail: ErrorDetails) -> list[FieldError]:
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, InvalidRequestError):
        return cause.errors
    if not detail["loc"]:
        return [FieldError("request", "is not a JSON object")]
    name, *_ = detail["loc"]
    fields = DailyOrdersBatchCloseConfigRequest.model_fields
    wanted = {key: field.description for n, field in fields.items() for key in (n, to_camel(n))}
    if name not in wanted:
        return [FieldError(brief(name), "is not the name of a JSON member")]
    if detail["type"] == "missing":
        reason = f"is missing; it must be {wanted[name]}"
    else:
        reason = str(cause or f"is {brief(detail['input'])}, but must be {wanted[name]}")
    return [FieldError(to_camel(str(name)), reason)]


def _extra_errors(request: DailyOrdersBatchCloseConfigRequest) -> Iterator[FieldError]:
    sizes = {}
    for name, value in (request.model_extra or {}).items():
        text = _as_kept({name: value})
        sizes[name] = len((text or "").encode())
        if name in type(request).model_fields:
            yield FieldError(to_camel(name), f"is given twice, as {name} too; give it once")
        elif text is None:
            yield FieldError(name[:60], "is not plain JSON, so it cannot be kept")
        elif any(re.sub(r"[\W_]", "", inner).lower() in _TOKENS for inner in _MEMBER.findall(text)):
            yield FieldError(
                name[:60], "holds a token, which does not belong in a request: remove it"
            )
    if sum(sizes.values()) > MAX_EXTRA_BYTES:
        yield FieldError(
            max(sizes, key=sizes.__getitem__)[:60],
            f"is too long to be kept: unknown fields may have {MAX_EXTRA_BYTES} bytes together",
        )


def _as_kept(value: object) -> str | None:
    """The value as JSON; None if JSON would change it or a database refuse it."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        same = json.loads(text.encode()) == value
    except (TypeError, ValueError, RecursionError):
        return None
    return text if same and not _NUL.search(text) else None


def _schedule_errors(
    request: DailyOrdersBatchCloseConfigRequest, admission: _Admission | None
) -> Iterator[FieldError]:
    suffix = parse_moment(request.first_run_at).zone
    if suffix and request.zone != suffix:
        yield FieldError("timeZone", f"{request.zone!r} is not firstRunAt's zone, {suffix!r}")
        return
    try:
        recurrence = request.recurrence
    except ValueError as error:
        yield FieldError("firstRunAt", str(error))
        return
    if not recurrence.fits_the_calendar:
        yield FieldError("maxRuns", f"{request.max_runs} leads beyond the year 9999; use fewer")
    gap = recurrence.shortest_gap()
    if request.upstream_wait >= gap - request.replication_delay:
        yield _waits_too_long(request, gap)
    if admission:
        yield from _admission_errors(request, admission)


def _waits_too_long(request: DailyOrdersBatchCloseConfigRequest, gap: timedelta) -> FieldError:
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
    request: DailyOrdersBatchCloseConfigRequest, admission: _Admission
) -> Iterator[FieldError]:
    recurrence = request.recurrence
    if recurrence.shortest_gap() < admission.shortest:
        reason = f"{request.interval!r} is too short; use {_words(admission.shortest)} or more"
        yield FieldError("interval", reason)
    if recurrence.first <= admission.now:
        upcoming = recurrence.after(admission.now, bounded=False)
        hint = (
            f"the next moment is {_local(upcoming, request)}"
            if upcoming
            else "nor is any later moment"
        )
        yield FieldError("firstRunAt", f"{request.first_run_at!r} is not in the future; {hint}")


@lru_cache(maxsize=32)
def _recurrence(first_run_at: str, zone: str | None, interval: str, max_runs: int) -> Recurrence:
    moment = parse_moment(first_run_at)
    if zone:
        moment.check_offset_in(zone)
    return Recurrence.starting(moment.at, zone, parse_interval(interval), max_runs)


def _local(moment: datetime, request: DailyOrdersBatchCloseConfigRequest) -> str:
    if request.zone:
        return f"{moment.astimezone(find_zone(request.zone)).isoformat()}[{request.zone}]"
    return moment.astimezone(parse_moment(request.first_run_at).at.tzinfo).isoformat()


def _words(length: timedelta) -> str:
    return pendulum.duration(seconds=length.total_seconds()).in_words(locale="en")


def _cadence(request: DailyOrdersBatchCloseConfigRequest) -> str:
    if parse_interval(request.interval).seconds:
        return f"every {request.interval} of elapsed time"
    at = parse_moment(request.first_run_at).at
    if request.zone:
        return f"{at.astimezone(find_zone(request.zone)):%H:%M} {request.zone}"
    return f"{at:%H:%M}, fixed at {at.isoformat()[-6:]}"
