"""Whether the process lives, and whether it can serve: for whoever keeps it running."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from starlette.requests import Request

from deployments.http_api.operations import described

KEPT_SECONDS = 3.0
"""How long an answer of `/readyz` stands, a refusal too: nobody makes Prefect answer more often."""

router = APIRouter(tags=["probes"])


class Readiness:
    """Whether this process can serve, asked once for all who want to know it at once."""

    def __init__(self, check: Callable[[], Awaitable[None]]) -> None:
        self._check = check
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self._trouble: Exception | None = None

    async def require(self) -> None:
        """Return if it can; raises what stands in the way, as `check` does."""
        async with self._asking:
            if time.monotonic() - self._asked_at >= KEPT_SECONDS:
                self._trouble = await self._find_trouble()
                self._asked_at = time.monotonic()
        if self._trouble:
            raise self._trouble.with_traceback(None)

    async def _find_trouble(self) -> Exception | None:
        try:
            await self._check()
        except Exception as error:  # noqa: BLE001  (raised to everybody who asks)
            return error
        return None


@router.get("/healthz", **described("getHealth"))
async def healthz() -> dict[str, bool]:
    """The process lives; it says nothing about Prefect."""
    return {"ok": True}


@router.get("/readyz", **described("getReadiness"))
async def readyz(request: Request) -> dict[str, bool]:
    """Prefect answers and the OAuth Server block is saved; 503 otherwise."""
    readiness: Readiness = request.app.state.readiness
    await readiness.require()
    return {"ok": True}
