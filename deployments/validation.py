"""A flow's parameters as its annotations want them: what Prefect does, made ready once for a flow.

Prefect builds a pydantic model of the flow's signature for every run anew, and a run that waits
twice is executed three times.
"""

from typing import Any
from weakref import WeakKeyDictionary

from prefect import Flow
from prefect._internal.pydantic.validated_func import ValidatedFunction
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameters_to_args_kwargs
from pydantic import ConfigDict, ValidationError

_signatures: WeakKeyDictionary[Flow[..., Any], ValidatedFunction] = WeakKeyDictionary()


def validated(flow: Flow[..., Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters cast to the flow's types; raises ParameterTypeError."""
    if not flow.should_validate_parameters:
        return parameters
    if any(isinstance(value, dict) and "$ref" in value for value in parameters.values()):
        return flow.validate_parameters(parameters)  # Prefect looks the blocks up
    if flow not in _signatures:
        anything = ConfigDict(arbitrary_types_allowed=True)
        _signatures[flow] = ValidatedFunction(flow.fn, config=anything)
    args, kwargs = parameters_to_args_kwargs(flow.fn, parameters)
    try:
        return _signatures[flow].validate_call_args(args, kwargs)
    except ValidationError as error:
        raise ParameterTypeError.from_validation_error(error) from None
