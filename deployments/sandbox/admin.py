"""The admin API under /sandbox/: callers' tokens, plans, faults, and what the ledger says."""

from collections.abc import Sequence
from typing import TypeVar

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.sandbox.faults import FaultPlan
from deployments.sandbox.keepsakes import Keepsakes
from deployments.sandbox.ledger import Ledger
from deployments.sandbox.shapes import Fault, Plan, Shape, SubjectTokenRequest
from deployments.sandbox.tokens import TokenStore

S = TypeVar("S", bound=Shape)


class Admin:
    """For whoever runs the demo, a test or a campaign: never for the system under test."""

    def __init__(
        self, tokens: TokenStore, ledger: Ledger, faults: FaultPlan, keepsakes: Keepsakes
    ) -> None:
        self._tokens = tokens
        self._ledger = ledger
        self._faults = faults
        self._keepsakes = keepsakes

    def routes(self) -> list[Route]:
        """The admin API's routes."""
        return [
            Route("/sandbox/subject-tokens", self.mint_subject_token, methods=["POST"]),
            Route("/sandbox/plans", self.add_plan, methods=["POST"]),
            Route("/sandbox/faults", self.queue_fault, methods=["POST"]),
            Route("/sandbox/faults", self.clear_faults, methods=["DELETE"]),
            Route("/sandbox/expire-access-tokens", self.expire_access_tokens, methods=["POST"]),
            Route("/sandbox/live-grants", self.live_grants),
            Route("/sandbox/verdict", self.verdict),
            Route("/sandbox/closes", self.closes),
            Route("/sandbox/events", self.events),
            Route("/sandbox/secrets", self.secrets),
            Route("/sandbox/health", self.health),
        ]

    async def mint_subject_token(self, request: Request) -> Response:
        """Logs a caller of the tenant in, so to speak, and gives its access token."""
        asked = await _read(request, SubjectTokenRequest)
        token = self._tokens.mint_subject_token(asked.tenant_id)
        return JSONResponse({"token": token}, 201, {"Cache-Control": "no-store"})

    async def add_plan(self, request: Request) -> Response:
        """Tells the judge when a binding's work is due."""
        self._ledger.plan(await _read(request, Plan))
        return Response(status_code=204)

    async def queue_fault(self, request: Request) -> Response:
        """Queues a fault behind those already waiting."""
        self._faults.queue(await _read(request, Fault))
        return Response(status_code=204)

    async def clear_faults(self, _: Request) -> Response:
        """Forgets the faults not yet played."""
        self._faults.clear()
        return Response(status_code=204)

    async def expire_access_tokens(self, _: Request) -> Response:
        """Ends the life of every access token; refresh tokens go on working."""
        self._tokens.expire_access_tokens()
        return Response(status_code=204)

    async def live_grants(self, request: Request) -> Response:
        """How many grants of `?tenant=` are not revoked."""
        tenant = request.query_params.get("tenant", "")
        return JSONResponse({"live": self._tokens.live_grants(tenant)})

    async def verdict(self, _: Request) -> Response:
        """The counts so far."""
        return JSONResponse(self._ledger.verdict().model_dump())

    async def closes(self, _: Request) -> Response:
        """Every close that took effect, by binding."""
        return _listed("bindings", self._ledger.closes())

    async def events(self, request: Request) -> Response:
        """The events numbered above `?after=N`, oldest first."""
        after = request.query_params.get("after", "0")
        if not after.isdecimal():
            raise HTTPException(400, "after is a number")
        return _listed("events", self._ledger.events(int(after)))

    async def secrets(self, _: Request) -> Response:
        """For tests only: the latest tokens given out and client credentials received."""
        return JSONResponse({"secrets": self._keepsakes.all()}, 200, {"Cache-Control": "no-store"})

    async def health(self, _: Request) -> Response:
        """Says that the sandbox is up."""
        return JSONResponse({"ok": True})


async def _read(request: Request, shape: type[S]) -> S:
    try:
        return shape.model_validate_json(await request.body())
    except ValidationError as error:
        raise HTTPException(400, str(error)) from None


def _listed(name: str, items: Sequence[Shape]) -> Response:
    dumped = [item.model_dump(mode="json", by_alias=True) for item in items]
    return JSONResponse({name: dumped})
