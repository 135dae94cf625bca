"""Whether a new request is admitted, and if not, a reason for every field at fault."""

import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.durations import parse_wait
from flows.refusals import FieldError, InvalidRequestError, brief
from flows.rules import Admission

__all__ = ["FieldError", "InvalidRequestError", "parse_request", "shortest_interval"]


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
    admission = Admission(now, shortest_interval())
    try:
        return DailyOrdersBatchCloseConfigRequest.model_validate(values, context=admission)
    except ValidationError as refusal:
        errors = [error for detail in refusal.errors() for error in _field_errors(detail)]
    # Not inside "except": pydantic's error would come along, with the input that it holds.
    raise InvalidRequestError(errors)


def shortest_interval() -> timedelta:
    """The shortest interval that is accepted: BATCH_CLOSE_SHORTEST_INTERVAL, one minute unless set.

    A demonstration sets it to a few seconds; nobody's day ends every minute.
    """
    name = "BATCH_CLOSE_SHORTEST_INTERVAL"
    try:
        return parse_wait(os.environ.get(name, "PT1M"))
    except ValueError as error:
        raise ValueError(f"the environment variable {name} {error}") from error


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
