"""The Arazzo document that ships has the shape of Arazzo 1.0 and fits the OpenAPI document."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

DOCS = Path(__file__).parents[2] / "docs"

Name = str
Pointer = r"(?:#(?:/(?:[^/~]|~[01])*)*)?"
EXPRESSION = re.compile(
    rf"\$(?:statusCode|url|method|response\.(?:body{Pointer}|header\.[\w-]+)"
    r"|inputs\.\w+|steps\.(?P<step>[\w-]+)\.outputs\.(?P<output>[\w.-]+))"
)


class _Object(BaseModel):
    """An object of Arazzo 1.0.1; nothing is in it that the specification does not know."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)


class Info(_Object):
    """4.6.2."""

    title: str
    version: str
    summary: str | None = None
    description: str | None = None


class Source(_Object):
    """4.6.3."""

    name: Name = Field(pattern=r"^[A-Za-z0-9_-]+$")
    url: str
    type: Literal["openapi", "arazzo"]


class Criterion(_Object):
    """4.6.11, simple conditions only."""

    condition: str


class Parameter(_Object):
    """4.6.6."""

    name: str
    location: Literal["path", "query", "header", "cookie"] = Field(alias="in")
    value: Any


class FailureAction(_Object):
    """4.6.8, retries only."""

    name: str
    type: Literal["retry"]
    retry_after: float = Field(ge=0)
    retry_limit: int = Field(ge=0)
    criteria: list[Criterion]


class RequestBody(_Object):
    """4.6.13."""

    content_type: str
    payload: Any


class Step(_Object):
    """4.6.5, of an operation."""

    step_id: Name = Field(pattern=r"^[A-Za-z0-9_-]+$")
    operation_id: str
    description: str | None = None
    parameters: list[Parameter] = []
    request_body: RequestBody | None = None
    success_criteria: list[Criterion]
    on_failure: list[FailureAction] = []
    outputs: dict[str, str] = {}


class Workflow(_Object):
    """4.6.4."""

    workflow_id: Name = Field(pattern=r"^[A-Za-z0-9_-]+$")
    summary: str | None = None
    description: str | None = None
    inputs: dict[str, Any]
    parameters: list[Parameter] = []
    steps: list[Step] = Field(min_length=1)
    outputs: dict[str, str] = {}


class Document(_Object):
    """4.6.1."""

    arazzo: Literal["1.0.0", "1.0.1"]
    info: Info
    source_descriptions: list[Source] = Field(min_length=1)
    workflows: list[Workflow] = Field(min_length=1)


def document() -> Document:
    text = (DOCS / "daily-orders-batch-close.arazzo.yaml").read_text()
    return Document.model_validate(yaml.safe_load(text))


def operations() -> dict[str, Any]:
    openapi = json.loads((DOCS / "openapi.json").read_text())
    found = (operation for methods in openapi["paths"].values() for operation in methods.values())
    return {operation["operationId"]: operation for operation in found}


def test_it_has_the_shape_of_arazzo_1_0():
    (workflow,) = document().workflows
    assert [step.step_id for step in workflow.steps] == ["startJourney", "getStatus", "getResult"]


def test_its_source_is_the_openapi_document_that_ships():
    (source,) = document().source_descriptions
    assert (DOCS / source.url).is_file()


def test_its_steps_name_operations_and_give_all_their_path_parameters():
    known = operations()
    for step in document().workflows[0].steps:
        operation = known[step.operation_id]
        wanted = {it["name"] for it in operation.get("parameters", []) if it["in"] == "path"}
        assert {it.name for it in step.parameters if it.location == "path"} == wanted
        assert ("requestBody" in operation) == (step.request_body is not None)


def test_every_expression_refers_to_something_there_is():
    (workflow,) = document().workflows
    outputs: dict[str, set[str]] = {}
    for step in workflow.steps:
        for expression in _expressions(step.model_dump(exclude={"outputs"})):
            _require(expression, outputs, workflow)
        outputs[step.step_id] = set(step.outputs)
        for expression in step.outputs.values():
            _require(expression, outputs, workflow)
    for expression in workflow.outputs.values():
        _require(expression, outputs, workflow)


def _expressions(value: Any) -> Iterator[str]:
    for text in re.findall(r'"((?:[^"\\]|\\.)*)"', json.dumps(value)):
        yield from re.findall(r"\$[\w.#/-]+", text)


def _require(expression: str, outputs: dict[str, set[str]], workflow: Workflow) -> None:
    found = EXPRESSION.fullmatch(expression)
    assert found, expression
    if found["step"]:
        assert found["output"] in outputs[found["step"]], expression
    if expression.startswith("$inputs."):
        assert expression.removeprefix("$inputs.") in workflow.inputs["properties"]
