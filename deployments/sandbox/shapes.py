"""The JSON shapes of the Orders API and of the admin API."""

from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

Endpoint = Literal[
    "token.exchange",
    "token.refresh",
    "revoke",
    "introspect",
    "orders.prepareSnapshot",
    "orders.close",
]
FaultKind = Literal[
    "status",
    "status_after",
    "echo",
    "reset_before",
    "reset_after",
    "slow",
    "truncated",
    "cut_body",
    "not_json",
    "wrong_types",
    "error_in_200",
    "redirect",
    "expires_in_string",
    "no_expires_in",
    "no_refresh_token",
    "token_type",
    "huge",
    "ok_false",
    "missing_snapshot_id",
    "body",
]


class Shape(BaseModel):
    """A frozen JSON object, camelCase on the wire."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, frozen=True, extra="forbid"
    )


class SubjectTokenRequest(Shape):
    """Asks for a caller's access token of one tenant."""

    tenant_id: str = Field(min_length=1)


class PrepareSnapshot(Shape):
    """The body of POST /orders/batches/prepareSnapshot."""

    tenant_id: str = Field(min_length=1)
    batch_id: str = Field(min_length=1)


class CloseBatch(PrepareSnapshot):
    """The body of POST /orders/batches/close."""

    snapshot_id: str = Field(min_length=1)


class Fault(Shape):
    """One way in which an endpoint will misbehave, `count` times.

    The members after `count` matter to some kinds only: `status`, `body` and `headers` to
    "status", "status_after" and "echo", `body` also to "body", `seconds` to "slow", `token_type`
    to "token_type", `location` to "redirect".

    "echo" is a "status" whose `body` and `headers` quote the request, as careless servers do:
    `{token}` becomes the token that it carries, `{half}` the first half of that, `{authorization}`
    its Authorization header.
    """

    endpoint: Endpoint
    kind: FaultKind
    tenant_id: str | None = None
    count: int = Field(default=1, ge=1, le=1_000_000)
    status: int = Field(default=503, ge=200, le=599)
    body: dict[str, JsonValue] | str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    seconds: float = Field(default=1.0, ge=0)
    token_type: str = "mac"
    location: str = "http://elsewhere.invalid/"


class Plan(Shape):
    """When one binding's snapshots and closes are due, as the judge is told beforehand."""

    tenant_id: str
    batch_id: str
    occurrences: list[AwareDatetime]
    upstream_wait_seconds: float = Field(ge=0)
    replication_delay_seconds: float = Field(ge=0)


class Verdict(BaseModel):
    """What the servers counted, from nothing but the requests they received.

    Attributes:
        configured: Token exchanges that succeeded.
        closed: Closes that took effect.
        refreshed: Refreshes that succeeded, replies lost on the way included.
        reuse: Times a consumed refresh token was presented and refused.
        double_close: Closes that took effect in an occurrence already closed.
        early: Snapshots and closes that took effect before their due moment.
        rekeyed: Requests for work of an occurrence that came under another key before.
        overlapping: Nights, grants and callers' tokens on which two processes worked at once:
            `deployments.sandbox.overlaps.Overlaps` says what that means.
        presented_twice: Requests with a refresh token that was replaced before, for another
            process, or for the same one 60 seconds ago or longer. Until then a process may repeat
            a refresh whose reply was lost.
    """

    configured: int = 0
    closed: int = 0
    refreshed: int = 0
    reuse: int = 0
    double_close: int = 0
    early: int = 0
    rekeyed: int = 0
    overlapping: int = 0
    presented_twice: int = 0


class Close(Shape):
    """One close that took effect; `occurrence` is None when no plan tells."""

    closed_at: datetime
    snapshot_id: str
    occurrence: datetime | None


class BindingCloses(Shape):
    """All closes of one binding, oldest first."""

    tenant_id: str
    batch_id: str
    closes: list[Close]


class Event(Shape):
    """One request and how it was answered; never a token.

    Attributes:
        number: 1 for the first event of this sandbox, then counting up.
        at: The moment of the answer.
        kind: The endpoint, such as "token.refresh".
        status: The HTTP status answered; None when the connection was dropped instead.
        error: The `error` member of the answer, if it had one.
        fault: The kind of the fault that was played, if one was.
        process: The process that asked, as its User-Agent names it; None where it names none.
    """

    number: int
    at: datetime
    kind: str
    tenant_id: str | None
    batch_id: str | None
    status: int | None
    error: str | None
    fault: str | None
    process: str | None = None
