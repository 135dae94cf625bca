"""As much of an Arazzo 1.0 interpreter as the workflow that ships needs."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import yaml

DOCS = Path(__file__).parents[2] / "docs"

Values = dict[str, Any]


class Workflow:
    """The first workflow of an Arazzo document, over an API at a base URL."""

    def __init__(self, document: Path, base_url: str) -> None:
        self._base_url = base_url
        arazzo = yaml.safe_load(document.read_text())
        (self._workflow,) = arazzo["workflows"]
        (source,) = arazzo["sourceDescriptions"]
        openapi = json.loads((document.parent / source["url"]).read_text())
        self._operations = {
            operation["operationId"]: (method, path)
            for path, methods in openapi["paths"].items()
            for method, operation in methods.items()
        }
        self.answers: list[tuple[str, httpx.Response]] = []

    async def run(self, **inputs: Any) -> Values:
        """Take every step in its order; returns the workflow's outputs."""
        known: Values = {f"$inputs.{name}": value for name, value in inputs.items()}
        async with httpx.AsyncClient(base_url=self._base_url, trust_env=False) as client:
            for step in self._workflow["steps"]:
                answer = await self._take(client, step, known)
                for name, expression in step["outputs"].items():
                    known[f"$steps.{step['stepId']}.outputs.{name}"] = _of(answer, expression)
        return {name: known[text] for name, text in self._workflow["outputs"].items()}

    async def _take(self, client: httpx.AsyncClient, step: Values, known: Values) -> httpx.Response:
        tries: dict[str, int] = {}
        while True:
            answer = await client.send(self._request(client, step, known))
            self.answers.append((step["stepId"], answer))
            if _holds(step["successCriteria"], answer):
                return answer
            action = next(it for it in step["onFailure"] if _holds(it["criteria"], answer))
            tries[action["name"]] = tries.get(action["name"], 0) + 1
            assert tries[action["name"]] <= action["retryLimit"], action["name"]
            await asyncio.sleep(action["retryAfter"])

    def _request(self, client: httpx.AsyncClient, step: Values, known: Values) -> httpx.Request:
        method, path = self._operations[step["operationId"]]
        headers: dict[str, str] = {}
        for parameter in [*self._workflow["parameters"], *step.get("parameters", [])]:
            value = _filled(parameter["value"], known)
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", value)
            else:
                headers[parameter["name"]] = value
        body = step.get("requestBody")
        payload = known[body["payload"]] if body else None
        return client.build_request(method.upper(), path, headers=headers, json=payload)


def _filled(value: str, known: Values) -> str:
    if value in known:
        return str(known[value])
    return re.sub(r"\{(\$[^}]+)\}", lambda found: str(known[found[1]]), value)


def _holds(criteria: list[Values], answer: httpx.Response) -> bool:
    return all(_is_true(criterion["condition"], answer) for criterion in criteria)


def _is_true(condition: str, answer: httpx.Response) -> bool:
    return any(_compares(part, answer) for part in condition.split(" || "))


def _compares(condition: str, answer: httpx.Response) -> bool:
    expression, operator, literal = condition.split(" ")
    expected = json.loads(literal.replace("'", '"'))
    same = _of(answer, expression) == expected
    return same if operator == "==" else not same


def _of(answer: httpx.Response, expression: str) -> Any:
    if expression == "$statusCode":
        return answer.status_code
    value = answer.json()
    for member in filter(None, expression.partition("#")[2].split("/")):
        value = value.get(member) if isinstance(value, dict) else None
    return value
