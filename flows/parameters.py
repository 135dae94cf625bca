"""A request as Prefect's parameters, and back: snake_case, one parameter for a field.

Unknown fields are text there: what is structure in a parameter, Prefect interprets.
"""

from collections.abc import Mapping
from typing import Any

from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.extras import NotAnObjectError, as_text, from_text
from flows.refusals import FieldError, InvalidRequestError

REQUEST_FIELDS = DailyOrdersBatchCloseConfigRequest.model_fields.keys()

EXTRAS = "additionalFields"
"""The member of a stored request that holds its unknown fields, as text."""


def to_parameters(
    request: DailyOrdersBatchCloseConfigRequest, access_token_block: str
) -> dict[str, Any]:
    """The configure flow's parameters for this request."""
    return {
        **request.model_dump(mode="json", include=set(REQUEST_FIELDS)),
        "additional_fields": as_text(request.model_extra),
        "access_token_block": access_token_block,
    }


def from_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The request, not yet checked, that the configure flow's parameters make up.

    Its additional fields are text, or what somebody entered in Prefect's form: an object.

    Raises InvalidRequestError where they are neither.
    """
    extra = parameters.get("additional_fields") or {}
    try:
        extra = from_text(extra) if isinstance(extra, str) else dict(extra)
    except (NotAnObjectError, TypeError, ValueError):
        error = FieldError(EXTRAS, "is not a JSON object")
        raise InvalidRequestError([error]) from None
    return {**extra, **{field: parameters[field] for field in REQUEST_FIELDS & parameters.keys()}}


def to_stored(request: DailyOrdersBatchCloseConfigRequest) -> dict[str, Any]:
    """The request as a deployment and its runs carry it, camelCase."""
    fields = request.model_dump(mode="json", by_alias=True, include=set(REQUEST_FIELDS))
    extras = as_text(request.model_extra)
    return {**fields, EXTRAS: extras} if extras else fields


def from_stored(configured: object) -> object:
    """The request, not yet checked, of what `to_stored` made; anything else as it is.

    What was stored earlier has its unknown fields beside the others.
    """
    if not isinstance(configured, Mapping) or not isinstance(configured.get(EXTRAS), str):
        return configured
    known = {name: value for name, value in configured.items() if name != EXTRAS}
    try:
        return {**from_text(configured[EXTRAS]), **known}
    except NotAnObjectError:
        return configured
