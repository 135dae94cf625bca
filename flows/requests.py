"""A binding's request as it is stored with its deployment and runs, where people can edit it."""

from pydantic import ValidationError

from blocks import standing
from blocks.binding import Binding
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.parameters import from_stored
from flows.refusals import InvalidRequestError


class NightError(Exception):
    """There is no night to close."""


class NotConfiguredError(NightError):
    """The binding was never configured."""


class UnreadableRequestError(NightError):
    """What is stored as configured is no request, or none any more."""


def read_request(binding: Binding, configured: object) -> DailyOrdersBatchCloseConfigRequest:
    """The request that is stored as `configured`; raises UnreadableRequestError."""
    try:
        return DailyOrdersBatchCloseConfigRequest.model_validate(from_stored(configured))
    except ValidationError as refusal:
        wrong = ", ".join(dict.fromkeys(_fields_at_fault(refusal)))
    # Raised out here: a validation error holds what it could not read.
    raise UnreadableRequestError(
        f"What is configured for {binding} cannot be read ({wrong or 'no object'}): configure it"
        " again."
    )


async def configured_now(binding: Binding) -> DailyOrdersBatchCloseConfigRequest:
    """What the binding is configured as; raises NotConfiguredError and UnreadableRequestError."""
    found = await standing.read(binding)
    if found is None:
        raise NotConfiguredError(f"{binding} is not configured: run the configure flow first.")
    return read_request(binding, found.parameters.get("configured"))


def _fields_at_fault(refusal: ValidationError) -> list[str]:
    fields = []
    for detail in refusal.errors(include_input=False):
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, InvalidRequestError):
            fields += [error.field for error in cause.errors]
        elif detail["loc"]:
            fields.append(str(detail["loc"][0])[:60])
    return fields
