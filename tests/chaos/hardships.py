"""How an outside system may misbehave towards one tenant, and how its trial may end.

A wire fault is its tenant's own; the blows of `tests.chaos.blows` fall on everyone in the round.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deployments.sandbox.settings import Rotation
from deployments.sandbox.shapes import Endpoint, FaultKind

Ending = Literal["CLOSED", "FAILED", "SKIPPED", "REFUSED"]
"""How a trial ended: as its night is recorded, or REFUSED if the configuration failed."""

CLOSED: frozenset[Ending] = frozenset({"CLOSED"})
FAILED: frozenset[Ending] = frozenset({"FAILED"})
REFUSED: frozenset[Ending] = frozenset({"REFUSED"})


@dataclass(frozen=True)
class WireFault:
    """How an outside system misbehaves towards one tenant."""

    name: str
    endpoint: Endpoint
    kind: FaultKind
    ends: frozenset[Ending] = CLOSED
    costs_strict: bool = False
    """Whether the grant is lost on a server that forgives no repeated refresh token."""
    details: Mapping[str, Any] = field(default_factory=dict)

    def endings(self, rotation: Rotation) -> frozenset[Ending]:
        """How a trial that goes through this may end."""
        return FAILED if self.costs_strict and rotation == "strict" else self.ends


FOR_GOOD = {"count": 50}
"""More often than anybody asks: whoever goes on after a crash meets it again."""


def _refusal(status: int, error: str) -> dict[str, Any]:
    return {"status": status, "body": {"error": error}}


def _wait(status: int) -> dict[str, Any]:
    return {"status": status, "headers": {"Retry-After": "1"}, "count": 2}


def _of_exchanges() -> list[WireFault]:
    at: Endpoint = "token.exchange"
    return [
        WireFault("exchange: 503 with Retry-After", at, "status", details=_wait(503)),
        WireFault("exchange: reply lost", at, "reset_after"),
        WireFault("exchange: connection reset", at, "reset_before"),
        WireFault(
            "exchange: refused",
            at,
            "status",
            REFUSED,
            details=FOR_GOOD | _refusal(400, "invalid_request"),
        ),
        WireFault("exchange: no refresh token", at, "no_refresh_token", REFUSED, details=FOR_GOOD),
        WireFault("exchange: redirect", at, "redirect", REFUSED, details=FOR_GOOD),
    ]


def _of_refreshes() -> list[WireFault]:
    at: Endpoint = "token.refresh"
    spoilt: list[tuple[str, FaultKind, dict[str, Any]]] = [
        ("reply lost", "reset_after", {}),
        ("slow past the timeout", "slow", {"seconds": 6}),
        ("truncated", "truncated", {}),
        ("cut off", "cut_body", {}),
        ("500 after the work", "status_after", {"status": 500}),
    ]
    lost = [
        WireFault(f"refresh: {name}", at, kind, costs_strict=True, details=details)
        for name, kind, details in spoilt
    ]
    refused = [
        WireFault(
            f"refresh: {name}", at, "status", FAILED, details=FOR_GOOD | _refusal(status, error)
        )
        for name, status, error in (
            ("invalid_grant", 400, "invalid_grant"),
            ("reuse as invalid_request", 400, "invalid_request"),
            ("invalid_client", 401, "invalid_client"),
        )
    ]
    return [
        *lost,
        *refused,
        WireFault("refresh: connection reset", at, "reset_before"),
        WireFault("refresh: 503 with Retry-After", at, "status", details=_wait(503)),
        WireFault("refresh: 429 with Retry-After", at, "status", details=_wait(429)),
        WireFault("refresh: 200 with error", at, "error_in_200"),
        WireFault("refresh: no new refresh token", at, "no_refresh_token"),
        WireFault("refresh: expires_in a string", at, "expires_in_string"),
        WireFault("refresh: no expires_in", at, "no_expires_in"),
        WireFault("refresh: redirect", at, "redirect", FAILED, details=FOR_GOOD),
    ]


def _of_orders(at: Endpoint, name: str) -> list[WireFault]:
    survived: list[tuple[str, FaultKind, dict[str, Any]]] = [
        ("reply lost", "reset_after", {}),
        ("connection reset", "reset_before", {}),
        ("slow past the timeout", "slow", {"seconds": 6}),
        ("cut off", "cut_body", {}),
        ("not JSON", "not_json", {}),
        ("500 twice", "status", {"status": 500, "count": 2}),
        ("500 after the work", "status_after", {"status": 500}),
        ("429 with Retry-After", "status", _wait(429)),
        ("401 once", "status", {"status": 401}),
        ("409 in progress", "status", _refusal(409, "request_in_progress")),
    ]
    final: list[tuple[str, FaultKind, dict[str, Any]]] = [
        ("403", "status", {"status": 403}),
        ("422", "status", {"status": 422}),
        ("ok: false", "ok_false", {}),
        ("redirect", "redirect", {}),
    ]
    return [
        *(WireFault(f"{name}: {it}", at, kind, details=how) for it, kind, how in survived),
        *(
            WireFault(f"{name}: {it}", at, kind, FAILED, details=FOR_GOOD | how)
            for it, kind, how in final
        ),
    ]


WIRE_FAULTS = [
    *_of_exchanges(),
    *_of_refreshes(),
    *_of_orders("orders.prepareSnapshot", "snapshot"),
    *_of_orders("orders.close", "close"),
    WireFault(
        "snapshot: no snapshotId",
        "orders.prepareSnapshot",
        "missing_snapshot_id",
        FAILED,
        details=FOR_GOOD,
    ),
    WireFault(
        "close: closed by somebody else",
        "orders.close",
        "status",
        FAILED,
        details=FOR_GOOD | _refusal(409, "already_closed"),
    ),
]
