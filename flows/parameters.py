"""A request as the configure flow's parameters, and back: snake_case, one parameter for a field."""

from collections.abc import Mapping
from typing import Any

from flows.contract import DailyOrdersBatchCloseConfigRequest

REQUEST_FIELDS = DailyOrdersBatchCloseConfigRequest.model_fields.keys()


def to_parameters(
    request: DailyOrdersBatchCloseConfigRequest, access_token_block: str
) -> dict[str, Any]:
    """The configure flow's parameters for this request."""
    return {
        **request.model_dump(mode="json", include=set(REQUEST_FIELDS)),
        "additional_fields": request.model_extra,
        "access_token_block": access_token_block,
    }


def from_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The request, not yet checked, that the configure flow's parameters make up."""
    extra = parameters.get("additional_fields") or {}
    return {**extra, **{field: parameters[field] for field in REQUEST_FIELDS & parameters.keys()}}
