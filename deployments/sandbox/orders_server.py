"""The Orders API: prepare a batch snapshot, close the batch, each once per Idempotency-Key."""

import secrets
from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deployments.sandbox.gateway import Gateway
from deployments.sandbox.idempotency import IdempotencyKeys, read_key
from deployments.sandbox.ledger import Binding, Ledger, Snapshot
from deployments.sandbox.replies import RefusedError, Reply
from deployments.sandbox.shapes import CloseBatch, Endpoint, PrepareSnapshot
from deployments.sandbox.tokens import TokenStore, UnknownTokenError

Asked = TypeVar("Asked", bound=PrepareSnapshot)


class OrdersServer:
    """Believes the OAuth server's access tokens, each for its own tenant only."""

    def __init__(self, tokens: TokenStore, ledger: Ledger, gateway: Gateway) -> None:
        self._tokens = tokens
        self._ledger = ledger
        self._gateway = gateway
        self._keys = IdempotencyKeys()
        self._snapshots: dict[str, Snapshot] = {}
        self._closed: set[str] = set()

    def routes(self) -> list[Route]:
        """The Orders API's routes."""
        return [
            Route("/orders/batches/prepareSnapshot", self.prepare_snapshot, methods=["POST"]),
            Route("/orders/batches/close", self.close, methods=["POST"]),
        ]

    async def prepare_snapshot(self, request: Request) -> Response:
        """Takes a snapshot of the batch as it is now."""
        asked = _parse(PrepareSnapshot, await request.body())
        return await self._answer(request, "orders.prepareSnapshot", asked, self._take_snapshot)

    async def close(self, request: Request) -> Response:
        """Closes the batch as the snapshot has it."""
        asked = _parse(CloseBatch, await request.body())
        return await self._answer(request, "orders.close", asked, self._close_batch)

    async def _answer(
        self,
        request: Request,
        endpoint: Endpoint,
        asked: Asked | None,
        act: Callable[[Asked], Reply],
    ) -> Response:
        tenant, batch = (asked.tenant_id, asked.batch_id) if asked else (None, None)
        night = self._ledger.night(Binding(asked.tenant_id, asked.batch_id)) if asked else None
        call = self._gateway.receive(request, endpoint, tenant, batch, night)
        key = read_key(request.headers.get("idempotency-key"))
        with self._keys.hold(tenant, key) as free:

            def work() -> Reply:
                self._authenticate(request, tenant)
                if asked is None or key is None:
                    why = "the body or the Idempotency-Key is missing or malformed"
                    raise RefusedError(400, "invalid_request", why=why)
                if not free:
                    raise RefusedError(409, "request_in_progress")
                self._ledger.key(Binding(asked.tenant_id, asked.batch_id), endpoint, key)
                payload = (endpoint, asked)
                return self._keys.once(asked.tenant_id, key, payload, lambda: act(asked))

            return await self._gateway.answer(call, work)

    def _authenticate(self, request: Request, tenant: str | None) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise RefusedError(401, "unauthorized", headers={"WWW-Authenticate": "Bearer"})
        try:
            token_tenant = self._tokens.access_tenant(token.strip())
        except UnknownTokenError:
            raise _bearer_refusal(401, "invalid_token") from None
        if tenant is not None and tenant != token_tenant:
            raise _bearer_refusal(403, "insufficient_scope")

    def _take_snapshot(self, asked: PrepareSnapshot) -> Reply:
        snapshot_id = f"snapshot-{secrets.token_hex(8)}"
        binding = Binding(asked.tenant_id, asked.batch_id)
        self._snapshots[snapshot_id] = self._ledger.snapshot(binding, snapshot_id)
        return Reply(200, {"snapshotId": snapshot_id, "ok": True})

    def _close_batch(self, asked: CloseBatch) -> Reply:
        snapshot = self._snapshots.get(asked.snapshot_id)
        if snapshot is None or snapshot.binding != (asked.tenant_id, asked.batch_id):
            raise RefusedError(404, "unknown_snapshot")
        if snapshot.snapshot_id in self._closed:
            raise RefusedError(409, "already_closed")
        self._closed.add(snapshot.snapshot_id)
        closed_at = self._ledger.close(snapshot).closed_at
        return Reply(200, {"ok": True, "closedAt": closed_at.isoformat()})


def _parse(shape: type[Asked], body: bytes) -> Asked | None:
    try:
        return shape.model_validate_json(body)
    except ValidationError:
        return None


def _bearer_refusal(status: int, error: str) -> RefusedError:
    return RefusedError(status, error, headers={"WWW-Authenticate": f'Bearer error="{error}"'})
