"""The OpenAPI 3.1 document: what FastAPI finds in the code, and what it cannot know.

`python -m deployments.http_api.openapi > docs/openapi.json` writes the one that ships.
"""

import json
import sys
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from deployments.http_api.operations import REFERENCE
from deployments.http_api.problems import Problem
from flows.contract import DailyOrdersBatchCloseConfigRequest

DESCRIPTION = """\
Configure the nightly close of a batch of orders once, and see how that went. The caller's access
token is exchanged for a grant of the nights' own and forgotten.

Errors are problem details (RFC 9457). A journey or batch that does not exist and one that your
token does not allow are answered alike.
"""


def install(app: FastAPI) -> None:
    """Have the app publish this document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title="Journeys API: daily-orders-batch-close",
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
    )
    schemas = document["components"]["schemas"]
    for model in (DailyOrdersBatchCloseConfigRequest, Problem):
        schema = model.model_json_schema(by_alias=True, ref_template=REFERENCE)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    _drop_unused_refusals(document)
    return document


def _drop_unused_refusals(document: dict[str, Any]) -> None:
    """FastAPI says of each parameter that it may be refused with its own 422; here none is."""
    for path in document["paths"].values():
        for operation in path.values():
            refusal = operation["responses"].get("422", {})
            if "HTTPValidationError" in json.dumps(refusal):
                del operation["responses"]["422"]
    for model in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(model, None)


def main() -> None:
    """Print the document."""
    from deployments.http_api.app import create_app  # noqa: PLC0415  (the app installs this)

    json.dump(create_app().openapi(), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
