"""A small client of the admin API, for the demo and the tests."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import httpx

from deployments.sandbox.shapes import (
    BindingCloses,
    Close,
    Endpoint,
    Event,
    Fault,
    FaultKind,
    Plan,
    Shape,
    SubjectTokenRequest,
    Verdict,
)


class SandboxClient:
    """Talks to the sandbox at a base URL as its operator does.

    Example:
        with running_sandbox() as url, SandboxClient(url) as sandbox:
            token = sandbox.subject_token("acme")
    """

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/sandbox/", timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def subject_token(self, tenant_id: str) -> str:
        """A new caller's access token of the tenant, fit to be exchanged."""
        reply = self._post("subject-tokens", SubjectTokenRequest(tenant_id=tenant_id))
        return str(reply.json()["token"])

    def plan(
        self,
        tenant_id: str,
        batch_id: str,
        occurrences: Iterable[datetime],
        *,
        upstream_wait: timedelta,
        replication_delay: timedelta,
    ) -> None:
        """Tells the judge when the binding's work is due, in timezone-aware moments."""
        plan = Plan(
            tenant_id=tenant_id,
            batch_id=batch_id,
            occurrences=list(occurrences),
            upstream_wait_seconds=upstream_wait.total_seconds(),
            replication_delay_seconds=replication_delay.total_seconds(),
        )
        self._post("plans", plan)

    def fault(
        self,
        endpoint: Endpoint,
        kind: FaultKind,
        *,
        tenant_id: str | None = None,
        count: int = 1,
        **details: Any,
    ) -> None:
        """Queues a fault; `details` are the other members of `Fault`."""
        fault = Fault(endpoint=endpoint, kind=kind, tenant_id=tenant_id, count=count, **details)
        self._post("faults", fault)

    def clear_faults(self) -> None:
        """Forgets the faults not yet played."""
        self._http.delete("faults").raise_for_status()

    def expire_access_tokens(self) -> None:
        """Ends the life of every access token; refresh tokens go on working."""
        self._post("expire-access-tokens")

    def live_grants(self, tenant_id: str) -> int:
        """How many grants of the tenant are not revoked."""
        return int(self._get("live-grants", {"tenant": tenant_id})["live"])

    def verdict(self) -> Verdict:
        """The counts so far."""
        return Verdict.model_validate(self._get("verdict"))

    def bindings(self) -> list[BindingCloses]:
        """Every binding that has closed at least once."""
        return [BindingCloses.model_validate(found) for found in self._get("closes")["bindings"]]

    def closes(self, tenant_id: str, batch_id: str) -> list[Close]:
        """One binding's closes, oldest first."""
        wanted = (tenant_id, batch_id)
        return [
            close
            for found in self.bindings()
            if (found.tenant_id, found.batch_id) == wanted
            for close in found.closes
        ]

    def events(self, after: int = 0) -> list[Event]:
        """The remembered events numbered above `after`, oldest first."""
        found = self._get("events", {"after": after})
        return [Event.model_validate(event) for event in found["events"]]

    def secrets(self) -> list[str]:
        """The latest tokens given out and client credentials received: for tests only."""
        return [str(secret) for secret in self._get("secrets")["secrets"]]

    def _post(self, path: str, body: Shape | None = None) -> httpx.Response:
        content = body.model_dump_json(by_alias=True) if body else None
        return self._http.post(path, content=content).raise_for_status()

    def _get(self, path: str, query: Mapping[str, int | str] | None = None) -> dict[str, Any]:
        reply: dict[str, Any] = self._http.get(path, params=query).raise_for_status().json()
        return reply
