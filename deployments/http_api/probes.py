"""Whether the process lives, and whether it can serve: for whoever keeps it running."""

from fastapi import APIRouter
from starlette.requests import Request

from deployments.http_api.callers import Callers
from deployments.http_api.operations import described

router = APIRouter(tags=["probes"])


@router.get("/healthz", **described("getHealth"))
async def healthz() -> dict[str, bool]:
    """The process lives; it says nothing about Prefect."""
    return {"ok": True}


@router.get("/readyz", **described("getReadiness"))
async def readyz(request: Request) -> dict[str, bool]:
    """Prefect answers and the OAuth Server block is saved; 503 otherwise."""
    callers: Callers = request.app.state.callers
    await callers.check()
    return {"ok": True}
