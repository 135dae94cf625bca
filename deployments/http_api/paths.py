"""Where everything of the API is, and the links that lead there."""

from urllib.parse import quote
from uuid import UUID

from starlette.requests import Request

from blocks.binding import Binding
from deployments.journey import JOURNEY

START = f"/api/v1/journeys/{JOURNEY}/start"
STATUS = "/api/v1/journeys/{journeyId}"
RESULT = "/api/v1/journeys/{journeyId}/result"
BATCHES = f"/api/v1/journeys/{JOURNEY}/batches/"
BATCH = BATCHES + "{tenantId}/{batchId}"


def status_url(request: Request, journey_id: UUID) -> str:
    """Path-absolute, so that it is right behind any proxy that keeps paths."""
    return _root(request) + STATUS.replace("{journeyId}", str(journey_id))


def result_url(request: Request, journey_id: UUID) -> str:
    """Where the journey's outcome is."""
    return _root(request) + RESULT.replace("{journeyId}", str(journey_id))


def batch_url(request: Request, binding: Binding) -> str:
    """Where the binding is; ids may hold anything, so each is one percent-encoded segment."""
    tenant, batch = quote(binding.tenant_id, safe=""), quote(binding.batch_id, safe="")
    return f"{_root(request)}{BATCHES}{tenant}/{batch}"


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")
