"""The documents that ship are the code's own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from openapi_spec_validator import validate

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def openapi() -> dict:
    return json.loads((DOCS / "openapi.json").read_text())


def test_the_openapi_document_that_ships_is_the_codes_own():
    command = [sys.executable, "-m", "deployments.http_api.openapi"]
    written = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (DOCS / "openapi.json").read_text() == written, (
        "docs/openapi.json is old: python -m deployments.http_api.openapi > docs/openapi.json"
    )


def test_it_is_valid_openapi_3_1(openapi):
    assert openapi["openapi"].startswith("3.1")
    validate(openapi)


def test_the_operations_have_the_seeds_names(openapi):
    found = {
        operation["operationId"]: (method, path)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    }
    journeys = "/api/v1/journeys"
    assert (
        found.items()
        >= {
            "dailyOrdersBatchClose_start": ("post", f"{journeys}/daily-orders-batch-close/start"),
            "dailyOrdersBatchClose_getStatus": ("get", f"{journeys}/{{journeyId}}"),
            "dailyOrdersBatchClose_getResult": ("get", f"{journeys}/{{journeyId}}/result"),
        }.items()
    )


def test_the_request_has_the_seeds_fields_and_allows_others(openapi):
    schema = openapi["components"]["schemas"]["DailyOrdersBatchCloseConfigRequest"]
    assert schema["required"] == ["tenantId", "batchId", "firstRunAt", "interval", "maxRuns"]
    assert schema["properties"].keys() - schema["required"] == {
        "upstreamWaitDuration",
        "replicationDelayDuration",
        "timeZone",
    }
    assert schema["additionalProperties"] is True


def test_every_refusal_is_a_problem_and_every_path_below_api_wants_a_token(openapi):
    for path, methods in openapi["paths"].items():
        for operation in methods.values():
            if path.startswith("/api/"):
                assert operation["security"] == [{"HTTPBearer": []}]
                assert "401" in operation["responses"]
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]
