"""What a worker makes of the parameters that are stored with a run."""

from datetime import timedelta
from typing import Any

import pytest
from prefect import Flow, flow
from prefect.exceptions import ParameterTypeError
from pydantic import BaseModel

from deployments.validation import validated


class Plan(BaseModel):
    """Something that Prefect stores as JSON."""

    every: timedelta


@flow
async def nightly(tenant: str, plan: Plan, times: int = 1) -> None: ...


@flow(validate_parameters=False)
async def judging_itself(times: int) -> None: ...


def test_parameters_become_what_the_flow_says_they_are() -> None:
    given = {"tenant": "acme", "plan": {"every": "P1D"}, "times": "3"}
    wanted = {"tenant": "acme", "plan": Plan(every=timedelta(days=1)), "times": 3}
    assert validated(nightly, given) == wanted == nightly.validate_parameters(given)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [({"plan": {"every": "soon"}}, "plan.every"), ({"times": "many"}, "times")],
)
def test_parameters_that_do_not_fit_are_named(wrong: dict[str, Any], reason: str) -> None:
    given = {"tenant": "acme", "plan": {"every": "P1D"}, **wrong}
    with pytest.raises(ParameterTypeError, match=reason):
        validated(nightly, given)


def test_a_flow_that_judges_its_parameters_itself_gets_them_as_they_are() -> None:
    assert validated(judging_itself, {"times": "many"}) == {"times": "many"}


def test_a_reference_to_a_block_is_left_to_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"plan": {"$ref": {"block_document_id": "any"}}}
    monkeypatch.setattr(
        Flow, "validate_parameters", lambda _flow, parameters: ["found", parameters]
    )
    assert validated(nightly, given) == ["found", given]
