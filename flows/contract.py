"""What configuring the batch close takes and gives: the seed's contract, camelCase on the wire."""

from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Annotated, Literal, Self
from unicodedata import category

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from flows.durations import parse_interval, parse_wait
from flows.extras import extra_errors
from flows.moments import find_zone, parse_moment
from flows.recurrence import Recurrence
from flows.refusals import InvalidRequestError, brief
from flows.rules import NO_PATH_SEGMENTS, Admission, name_errors, schedule_errors

_NAME = "1 to 200 characters, no control characters, no white space around them; not . or .."
_LONGEST = 100
"""Characters of a moment, duration or zone: all are kept in every run, however many zeros."""

_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # controls, lone surrogates, line and paragraph separators


def _read_by(parse: Callable[[object], object]) -> BeforeValidator:
    def check(text: object) -> object:
        if isinstance(text, str) and len(text) > _LONGEST:
            raise ValueError(f"has more than {_LONGEST} characters")
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


_Name = Annotated[
    str,
    Field(
        strict=True,
        min_length=1,
        max_length=200,
        json_schema_extra={"not": {"enum": [*NO_PATH_SEGMENTS]}},
    ),
    AfterValidator(_plain),
]
_Moment = Annotated[str, Field(max_length=_LONGEST), _read_by(parse_moment)]
_Interval = Annotated[str, Field(max_length=_LONGEST), _read_by(parse_interval)]
_Wait = Annotated[str, Field(max_length=_LONGEST), _read_by(parse_wait)]
_Zone = Annotated[str, Field(strict=True, max_length=_LONGEST), AfterValidator(_zone)]


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

    @field_validator(
        "upstream_wait_duration",
        "replication_delay_duration",
        mode="before",
        json_schema_input_type=Annotated[str, Field(max_length=_LONGEST)] | None,
    )
    @classmethod
    def _default_for_null(cls, value: object, info: ValidationInfo) -> object:
        return cls.model_fields[info.field_name or ""].default if value is None else value

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
        admission = info.context if isinstance(info.context, Admission) else None
        is_new = admission is not None
        unknown = extra_errors(self.model_extra or {}, known=type(self).model_fields, is_new=is_new)
        names = name_errors(self) if is_new else ()
        if errors := [*unknown, *names, *schedule_errors(self, admission)]:
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


@lru_cache(maxsize=32)
def _recurrence(first_run_at: str, zone: str | None, interval: str, max_runs: int) -> Recurrence:
    return Recurrence.starting(parse_moment(first_run_at), zone, parse_interval(interval), max_runs)


def _cadence(request: DailyOrdersBatchCloseConfigRequest) -> str:
    if parse_interval(request.interval).seconds:
        return f"every {request.interval} of elapsed time"
    at = parse_moment(request.first_run_at).at
    if request.zone:
        return f"{at.astimezone(find_zone(request.zone)):%H:%M} {request.zone}"
    return f"{at:%H:%M}, fixed at {at.isoformat()[-6:]}"
