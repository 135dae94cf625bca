"""The journey definition that ships says what the flows do."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic.alias_generators import to_camel

from flows import configure, daily_close
from flows.contract import DailyOrdersBatchCloseConfigRequest

DEFINITION = Path(__file__).parents[2] / "docs" / "daily-orders-batch-close.journey.yaml"
MODULES = {"configure": configure, "dailyClose": daily_close}


@pytest.fixture(scope="module")
def definition() -> dict[str, Any]:
    return yaml.safe_load(DEFINITION.read_text())


def steps_in_order(module: ModuleType, flow: str) -> list[str]:
    """The steps that the flow calls, in camelCase, in the order in which its source calls them."""
    functions = {
        node.name: node
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.AsyncFunctionDef)
    }
    found = [to_camel(name) for name in _calls(functions[flow], functions)]
    return list(dict.fromkeys(found))


def _calls(node: ast.AST, functions: dict[str, ast.AsyncFunctionDef]) -> Iterator[str]:
    """The public functions of the module that are called below here; private ones are entered."""
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, functions)  # arguments are evaluated before the call
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        if name.startswith("_") and name in functions:
            for statement in functions[name].body:
                yield from _calls(statement, functions)
        elif name in functions:
            yield name


@pytest.mark.parametrize("flow", MODULES)
def test_its_states_are_the_flows_steps_in_their_order(definition: Any, flow: str) -> None:
    described = definition["flows"][flow]
    module = MODULES[flow]
    prefect_flow = getattr(module, module.__name__.rpartition(".")[2])
    assert described["prefectFlow"] == prefect_flow.name
    assert list(described["states"]) == steps_in_order(module, prefect_flow.fn.__name__)


@pytest.mark.parametrize("flow", MODULES)
def test_every_transition_leads_to_a_state_or_an_end(definition: Any, flow: str) -> None:
    described = definition["flows"][flow]
    states, ends = described["states"], described["ends"]
    path, state = [], described["first"]
    while state in states:
        path.append(state)
        assert states[state].get("otherwise", state) in states | ends
        state = states[state]["next"]
    assert path == list(states)
    assert state in ends


def test_its_timers_are_the_waits_and_its_defaults_the_contracts(definition: Any) -> None:
    fields = DailyOrdersBatchCloseConfigRequest.model_fields
    defaults = definition["input"]["defaults"]
    assert defaults == {
        to_camel(name): field.default
        for name, field in fields.items()
        if field.default and not field.is_required()
    }
    assert definition["input"]["required"] == [
        to_camel(name) for name, field in fields.items() if field.is_required()
    ]
    states = definition["flows"]["dailyClose"]["states"]
    assert {name: state["timer"] for name, state in states.items() if "timer" in state} == {
        "waitForUpstream": "upstreamWaitDuration",
        "replicationDelay": "replicationDelayDuration",
    }
    assert {state["timer"] for state in states.values() if "timer" in state} == defaults.keys()
