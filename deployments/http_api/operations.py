"""What the OpenAPI document says of each operation, beyond what the code shows."""

from typing import Any

from deployments.http_api.problems import MEDIA_TYPE, Problem
from flows.contract import DailyOrdersBatchCloseConfigRequest

REFERENCE = "#/components/schemas/{model}"

SAID = {
    400: "The request cannot be read: its body is no JSON object, or a header is malformed.",
    401: "No access token, or one that is not good (RFC 6750).",
    403: "The access token is not this tenant's.",
    404: "There is no such thing, or not for this caller.",
    409: "The journey is still running, or the batch is being configured or closed: try again.",
    413: "The body is larger than 64 KiB.",
    415: "The body is not application/json.",
    422: "A field is at fault, or the Idempotency-Key was used for another request.",
    503: "Prefect or the OAuth server is away: ask again, for a journey with the same key.",
}

_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    503: {"Retry-After": {"description": "Seconds.", "schema": {"type": "string"}}},
}
_BY_ID = {"parameters": {"journeyId": "$response.body#/journeyId"}}

OPERATIONS: dict[str, dict[str, Any]] = {
    "start": {
        "operation_id": "dailyOrdersBatchClose_start",
        "summary": "Configure and schedule a batch",
        "refused": (400, 401, 403, 413, 415, 422, 503),
        "success": {
            202: {
                "description": "The journey has started.",
                "headers": {
                    "Location": {
                        "description": "Where its status is.",
                        "schema": {"type": "string", "format": "uri-reference"},
                    }
                },
                "links": {
                    "status": {"operationId": "dailyOrdersBatchClose_getStatus", **_BY_ID},
                    "result": {"operationId": "dailyOrdersBatchClose_getResult", **_BY_ID},
                    "batch": {
                        "operationId": "dailyOrdersBatchClose_getBatch",
                        "parameters": {
                            "tenantId": "$request.body#/tenantId",
                            "batchId": "$request.body#/batchId",
                        },
                    },
                },
            }
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "$ref": REFERENCE.format(
                                model=DailyOrdersBatchCloseConfigRequest.__name__
                            )
                        }
                    }
                },
            }
        },
    },
    "getStatus": {
        "operation_id": "dailyOrdersBatchClose_getStatus",
        "summary": "How far a journey has come",
        "refused": (401, 404, 503),
        "success": {
            200: {
                "headers": {
                    "Preference-Applied": {
                        "description": "The wait that was applied (RFC 7240 3).",
                        "schema": {"type": "string"},
                    }
                },
            }
        },
    },
    "getResult": {
        "operation_id": "dailyOrdersBatchClose_getResult",
        "summary": "How a journey ended",
        "refused": (401, 404, 409, 503),
    },
    "getBatch": {
        "operation_id": "dailyOrdersBatchClose_getBatch",
        "summary": "Extension: a configured batch",
        "refused": (401, 404, 503),
    },
    "endBatch": {
        "operation_id": "dailyOrdersBatchClose_endBatch",
        "summary": "Extension: end a configured batch",
        "refused": (401, 404, 409, 503),
    },
    "getHealth": {"operation_id": "getHealth", "summary": "The process lives"},
    "getReadiness": {"operation_id": "getReadiness", "summary": "It can serve", "refused": (503,)},
}


def described(operation: str) -> dict[str, Any]:
    """What FastAPI is told about an operation, beyond what its function says."""
    told = dict(OPERATIONS[operation])
    responses = told.pop("success", {})
    responses |= {status: _refusal(status) for status in told.pop("refused", ())}
    return {**told, "responses": responses}


def _refusal(status: int) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(model=Problem.__name__)}
    return {
        "description": SAID[status],
        "content": {MEDIA_TYPE: {"schema": schema}},
        "headers": _HEADERS.get(status, {}),
    }
