"""The Orders API: prepare the snapshot of a day's batch, close the batch.

Every attempt of an operation carries the same Idempotency-Key, so an attempt whose answer was lost
can be repeated: the Orders API does the work once.
"""

import asyncio
import json
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol, Self
from urllib.parse import quote
from uuid import UUID, uuid5

import httpx
from prefect.blocks.core import Block
from prefect.logging import get_logger
from pydantic import (
    Field,
    HttpUrl,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from blocks.http import (
    Reply,
    ReplyTooLargeError,
    is_safe_url,
    retry_after,
    send,
    shared_client,
)
from blocks.orders_errors import (
    REFUSALS,
    BatchAlreadyClosedError,
    OrdersConflictError,
    OrdersError,
    OrdersMalformedReplyError,
    OrdersNotOkError,
    OrdersRedirectedError,
    OrdersRefusedError,
    OrdersReplyTooLargeError,
    OrdersUnauthorizedError,
    OrdersUnavailableError,
    OrdersUnreadableReplyError,
    explanations,
    is_json_object,
    quotable,
    says_already_closed,
    says_in_progress,
    says_ok,
    snapshots_named,
)

MAX_RETRY_AFTER = 120.0
"""Seconds. A server that asks for more is asked sooner: one header must not cost a night."""

MAX_BACKOFF = 30.0
"""Seconds between two attempts where the server asks for nothing."""

_KEYS = UUID("b2a1f1f0-6f0c-4d53-9f0e-5a0c7d1e8c55")
"""The namespace of our UUIDv5 keys. Changing it changes every key: never."""

_PLACEHOLDERS = {
    "prepare_snapshot_path": ("tenantId", "batchId"),
    "close_path": ("tenantId", "batchId", "snapshotId"),
}

_NOT_BEGUN = {408, 425, 429}  # too slow, too early, too many: the work was not even begun
_PASSING = {202, *_NOT_BEGUN}
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

_VISIBLE_ASCII = re.compile(r"[!-~]+")

_log = get_logger(__name__)


def idempotency_key(tenant_id: str, batch_id: str, occurrence: datetime, operation: str) -> str:
    """The Idempotency-Key of one operation on one occurrence of one binding.

    It depends on nothing else, so a retry, a replay, and a run after a crash send the same key.
    JSON keeps the parts apart ("a", "b-c" is never "a-b", "c"); UUIDv5 makes of it the short form
    that the Idempotency-Key draft recommends, and shows no tenant to whoever reads headers.

    Args:
        tenant_id: The tenant, taken character by character.
        batch_id: The batch, likewise.
        occurrence: The scheduled moment, in any time zone.
        operation: What the key is for; snapshot and close must not share one.

    Raises:
        ValueError: The occurrence has no time zone, so it names no moment.
    """
    if occurrence.tzinfo is None:
        raise ValueError("occurrence must have a time zone")
    moment = occurrence.astimezone(UTC).isoformat()
    parts = json.dumps([tenant_id, batch_id, moment, operation], ensure_ascii=False)
    return str(uuid5(_KEYS, parts))


class TokenSource(Protocol):
    """Where an operation gets its access token from, before every single attempt."""

    async def __call__(self, *, rejected: SecretStr | None = None) -> SecretStr:
        """An access token that is valid now, and another one than `rejected`."""


@dataclass(frozen=True)
class Snapshot:
    """A prepared snapshot of a batch."""

    snapshot_id: str


@dataclass(frozen=True)
class Closed:
    """A closed batch; `closed_at` is None where the Orders API does not tell the moment."""

    closed_at: datetime | None


@dataclass(frozen=True)
class Pace:
    """When the next attempt happens; its clock, sleep and chance are replaceable in tests."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random

    def delay(self, attempt: int, asked: float | None) -> float:
        """Seconds after this attempt (1, 2, ...): 2, 4, 8 ... and never sooner than asked.

        Up to a quarter is added by chance, so that all tenants of 23:00 do not return in step.
        """
        backoff = min(MAX_BACKOFF, 2.0**attempt)
        return max(backoff, min(asked or 0.0, MAX_RETRY_AFTER)) * (1 + self.chance() / 4)


class OrdersApi(Block):
    """The Orders API that prepares batch snapshots and closes batches."""

    _block_type_name = "Orders API"
    _block_type_slug = "orders-api"
    _description = "Where the Orders API is, and how patiently it is asked."
    _documentation_url: ClassVar[HttpUrl] = HttpUrl(
        "https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/"
    )

    base_url: str = Field(
        title="Base URL",
        description="Where the Orders API is; the paths are appended to it.",
        examples=["https://orders.example.com/v1"],
    )
    prepare_snapshot_path: str = Field(
        default="/orders/batches/prepareSnapshot",
        title="Prepare snapshot path",
        description="Path of prepareDailyBatchSnapshot; it may hold {tenantId} and {batchId}.",
        examples=["/tenants/{tenantId}/batches/{batchId}/snapshots"],
    )
    close_path: str = Field(
        default="/orders/batches/close",
        title="Close path",
        description="Path of closeDailyBatch; it may hold {tenantId}, {batchId}, {snapshotId}.",
        examples=["/tenants/{tenantId}/batches/{batchId}/close"],
    )
    connect_timeout: float = Field(
        default=10.0,
        gt=0,
        le=300,
        title="Connect timeout",
        description="Seconds to wait for a connection.",
        examples=[10.0],
    )
    read_timeout: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        title="Read timeout",
        description="Seconds to wait, once connected, for the whole reply.",
        examples=[60.0],
    )
    max_attempts: int = Field(
        default=5,
        ge=1,
        le=20,
        title="Attempts",
        description="How often one operation is tried while the Orders API is unavailable.",
        examples=[5],
    )
    quote_idempotency_key: bool = Field(
        default=True,
        title="Quote the Idempotency-Key",
        description=(
            "Send the key in double quotes, as the IETF draft wants (a Structured Field String). "
            "Switch it off for an API that takes the bare key. A server may see two different keys "
            "in the two forms: change it only while no night is unfinished."
        ),
        examples=[True],
    )
    allow_http: bool = Field(
        default=False,
        title="Allow plain HTTP",
        description="Let access tokens travel unencrypted to a host other than this machine.",
        examples=[False],
    )

    _pace: Pace = PrivateAttr(default_factory=Pace)

    @field_validator("prepare_snapshot_path", "close_path")
    @classmethod
    def _only_known_placeholders(cls, path: str, info: ValidationInfo) -> str:
        known = _PLACEHOLDERS[str(info.field_name)]
        fixed = re.sub("|".join(f"{{{name}}}" for name in known), "", path)
        if not path.startswith("/") or re.search(r"[{}#]|[^!-~]", fixed):
            raise ValueError(
                f"{info.field_name} must be a path that starts with / and has no placeholders "
                f"but {{{'}, {'.join(known)}}}"
            )
        return path

    @model_validator(mode="after")
    def _tokens_travel_safely(self) -> Self:
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL:
            raise ValueError("base_url is not a URL") from None
        if url.userinfo or url.query or url.fragment:
            # httpx would send a user name as Basic authentication, in place of the access token.
            raise ValueError("base_url must have no user name, query or fragment")
        plain = self.allow_http and url.scheme == "http" and url.host
        if not plain and not is_safe_url(self.base_url):
            raise ValueError("base_url must start with https:// (or see allow_http)")
        return self

    def paced(self, pace: Pace) -> Self:
        """This API, waiting between its attempts at another pace."""
        self._pace = pace
        return self

    async def prepare_daily_batch_snapshot(
        self, tenant_id: str, batch_id: str, *, access_token: TokenSource, idempotency_key: str
    ) -> Snapshot:
        """Have the Orders API compute the batch's snapshot.

        Args:
            tenant_id: The tenant whose batch it is.
            batch_id: The batch.
            access_token: Asked for a token before every attempt, and once more after a 401.
            idempotency_key: The same in every run of this occurrence; see `idempotency_key`.

        Raises:
            OrdersUnavailableError: No definite answer; running the night again is safe.
            OrdersError: Any other of the family: the operation was refused, or it failed.
            ValueError: An id cannot stand in the path, or the key in a header.
        """
        ids = {"tenantId": tenant_id, "batchId": batch_id}
        url = self._url(self.prepare_snapshot_path, ids)
        call = self._call("prepareDailyBatchSnapshot", url, ids, access_token, idempotency_key)
        snapshot_id = (await call.complete()).get("snapshotId")
        # Unprintable ones (a NUL, half a surrogate pair) could neither be sent nor stored again.
        if (
            not isinstance(snapshot_id, str)
            or not snapshot_id.strip()
            or not snapshot_id.isprintable()
        ):
            happened = "was answered without a snapshotId that is a non-empty, printable string"
            raise OrdersMalformedReplyError(call.operation, happened, status=call.status)
        return Snapshot(snapshot_id)

    async def close_daily_batch(  # noqa: PLR0913 -- each has its own meaning, a bundle would hide them
        self,
        tenant_id: str,
        batch_id: str,
        snapshot_id: str,
        *,
        access_token: TokenSource,
        idempotency_key: str,
        resumed: bool = False,
    ) -> Closed:
        """Close the batch as the snapshot has it.

        A 409 "already closed" counts as our own success only if its body names our snapshot, or if
        it names none and an earlier attempt may have closed the batch: one of this call that ended
        without a definite answer, or one of an earlier run (`resumed`). A bare 409 can prove no
        more than that. Any other is a BatchAlreadyClosedError.

        Args:
            tenant_id: The tenant whose batch it is.
            batch_id: The batch.
            snapshot_id: The snapshot to close it with.
            access_token: Asked for a token before every attempt, and once more after a 401.
            idempotency_key: The same in every run of this occurrence; see `idempotency_key`.
            resumed: Whether an earlier run may have sent this very close already.

        Raises:
            OrdersUnavailableError: No definite answer; running the night again is safe.
            BatchAlreadyClosedError: The batch is closed, and not by us as far as one can tell.
            OrdersError: Any other of the family: the operation was refused, or it failed.
            ValueError: An id cannot stand in the path, or the key in a header.
        """
        ids = {"tenantId": tenant_id, "batchId": batch_id, "snapshotId": snapshot_id}
        url = self._url(self.close_path, ids)
        call = self._call("closeDailyBatch", url, ids, access_token, idempotency_key)
        call.maybe_done = resumed
        return Closed(_moment((await call.complete()).get("closedAt")))

    def _url(self, path: str, ids: dict[str, str]) -> str:
        def segment(placeholder: re.Match[str]) -> str:
            name = placeholder[1]
            if ids[name] in {"", ".", ".."}:
                # Dots survive percent-encoding and lead to another path (RFC 3986, 5.2.4).
                raise ValueError(f"{name} {ids[name]!r} cannot stand in a URL's path")
            return quote(ids[name], safe="")

        return self.base_url.rstrip("/") + re.sub(r"\{(\w+)\}", segment, path)

    def _call(
        self, operation: str, url: str, body: dict[str, str], access_token: TokenSource, key: str
    ) -> "_Call":
        if not _VISIBLE_ASCII.fullmatch(key):
            raise ValueError("idempotency_key must be visible ASCII characters")
        if self.quote_idempotency_key:
            key = '"' + re.sub(r'(["\\])', r"\\\1", key) + '"'
        return _Call(self, self._pace, operation, url, body, access_token, key)


@dataclass
class _Call:
    """One operation on its way: all its attempts, and what they have shown so far."""

    api: OrdersApi
    pace: Pace
    operation: str
    url: str
    body: dict[str, str]
    access_token: TokenSource
    key: str
    attempt: int = 1
    refreshed: bool = False
    maybe_done: bool = False  # an attempt without a definite answer may have done the work
    status: int | None = None  # of the latest reply
    tokens: list[SecretStr] = field(default_factory=list)  # never to be quoted

    async def complete(self) -> dict[str, Any]:
        """Attempt it until there is a definite answer; the body of a success."""
        while True:
            try:
                return self._judge(await self._exchange())
            except OrdersUnavailableError as error:
                if self.attempt == self.api.max_attempts:
                    raise
                delay = self.pace.delay(self.attempt, error.retry_after)
                _log.warning("%s %s; again in %.1f s.", self.operation, error.happened, delay)
            self.attempt += 1
            await self.pace.sleep(delay)

    async def _exchange(self) -> Reply:
        token = await self.access_token()  # the one before may have expired during the wait
        reply = await self._send(token)
        if reply.status == httpx.codes.UNAUTHORIZED and not self.refreshed:
            # With or without WWW-Authenticate (RFC 6750 3.1), but once: a server that refuses
            # a fresh token will refuse the next one too.
            self.refreshed = True
            reply = await self._send(await self.access_token(rejected=token))
        self.status = reply.status
        return reply

    async def _send(self, token: SecretStr) -> Reply:
        request = self._request(token)
        failure: OrdersError
        try:
            # One connect_timeout is for a free place in the pool, one for the connection.
            within = 2 * self.api.connect_timeout + self.api.read_timeout
            return await send(request, within=within)
        except ReplyTooLargeError:
            failure = OrdersReplyTooLargeError(self.operation, "was answered with over 1 MiB")
        except httpx.TransportError as error:
            self.maybe_done |= not isinstance(error, _NEVER_SENT)
            reason = self._quotable(f"{type(error).__name__}: {error}".removesuffix(": "))
            failure = self._unavailable(f"got no answer ({reason})")
        # Raised out here it has no httpx exception in its context, which would hold the token.
        raise failure

    def _request(self, token: SecretStr) -> httpx.Request:
        self.tokens.append(token)
        if not _VISIBLE_ASCII.fullmatch(token.get_secret_value()):
            happened = "was given an access token that no header can carry"
            raise OrdersUnauthorizedError(self.operation, happened)
        connect, read = self.api.connect_timeout, self.api.read_timeout
        return shared_client().build_request(
            "POST",
            self.url,
            json=self.body,
            headers={
                "Accept": "application/json",
                "Authorization": f"Bearer {token.get_secret_value()}",
                "Idempotency-Key": self.key,
                "User-Agent": "daily-orders-batch-close",
            },
            timeout=httpx.Timeout(read, connect=connect, pool=connect),
        )

    def _judge(self, reply: Reply) -> dict[str, Any]:
        """The body of a success; raises the error that any other reply means."""
        status = reply.status
        if status in _PASSING or httpx.codes.is_server_error(status):
            # Behind a gateway's 5xx the work may be done, and after a 202 it will be.
            self.maybe_done |= status not in _NOT_BEGUN
            raise self._unavailable(self._answered(reply), reply)
        if httpx.codes.is_success(status):
            return self._success(reply)
        if status == httpx.codes.CONFLICT:
            return self._conflict(reply)
        if httpx.codes.is_redirect(status):
            raise OrdersRedirectedError(self.operation, self._answered(reply), status=status)
        refusal = REFUSALS.get(status, OrdersRefusedError)
        raise refusal(self.operation, self._answered(reply), status=status)

    def _success(self, reply: Reply) -> dict[str, Any]:
        if reply.status == httpx.codes.NO_CONTENT:
            return {}
        if not is_json_object(reply):
            self.maybe_done = True
            happened = f"{self._answered(reply)} without a JSON object"
            raise self._unavailable(happened, reply, OrdersUnreadableReplyError)
        if not says_ok(reply):
            happened = f"{self._answered(reply)} but not ok"
            raise OrdersNotOkError(self.operation, happened, status=reply.status)
        return reply.json_object()

    def _conflict(self, reply: Reply) -> dict[str, Any]:
        answered = self._answered(reply)
        if says_already_closed(reply):
            named, ours = snapshots_named(reply), self.body.get("snapshotId")
            if ours and (named == {ours} or (self.maybe_done and not named)):
                _log.info("%s %s by an earlier attempt of ours.", self.operation, answered)
                return {"closedAt": reply.json_object().get("closedAt")}
            raise BatchAlreadyClosedError(self.operation, answered, status=reply.status)
        if says_in_progress(reply):
            raise self._unavailable(answered, reply)
        raise OrdersConflictError(self.operation, answered, status=reply.status)

    def _unavailable(
        self,
        happened: str,
        reply: Reply | None = None,
        kind: type[OrdersUnavailableError] = OrdersUnavailableError,
    ) -> OrdersUnavailableError:
        return kind(
            self.operation,
            f"{happened} at attempt {self.attempt} of {self.api.max_attempts}",
            status=reply.status if reply else None,
            retry_after=retry_after(reply.headers, self.pace.now()) if reply else None,
        )

    def _answered(self, reply: Reply) -> str:
        words = "; ".join(explanations(reply))
        quoted = self._quotable(words or reply.headers.get("Location", ""))
        return f"was answered {reply.status}" + (f" ({quoted})" if quoted else "")

    def _quotable(self, words: str) -> str:
        return quotable(words, [token.get_secret_value() for token in self.tokens])


def _moment(value: object) -> datetime | None:
    """The aware datetime that an RFC 3339 text names; None for anything else."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment and moment.tzinfo else None
