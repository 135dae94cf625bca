"""The Orders API at the wire: what is sent, and what each answer means."""

import json
import logging
import pickle
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import pendulum
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from blocks.orders import (
    BatchAlreadyClosedError,
    Closed,
    OrdersApi,
    OrdersBadRequestError,
    OrdersConflictError,
    OrdersError,
    OrdersForbiddenError,
    OrdersMalformedReplyError,
    OrdersNotFoundError,
    OrdersNotOkError,
    OrdersRedirectedError,
    OrdersRefusedError,
    OrdersReplyTooLargeError,
    OrdersUnauthorizedError,
    OrdersUnavailableError,
    OrdersUnprocessableError,
    OrdersUnreadableReplyError,
    OrdersUnsendableError,
    Pace,
    Snapshot,
    idempotency_key,
)

BASE = "https://orders.test/v1"
NOW = datetime(2026, 3, 1, 22, 0, tzinfo=UTC)
KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"
CLOSED_AT = datetime(2026, 3, 1, 22, 5, tzinfo=UTC)


@dataclass
class Tokens:
    """A token source that remembers: a rejected token is followed by another one."""

    prefix: str = field(default="token", repr=False)
    asked: int = 0
    rejected: list[str] = field(default_factory=list, repr=False)

    async def __call__(self, *, rejected: SecretStr | None = None) -> SecretStr:
        """The current token, or the next one."""
        self.asked += 1
        if rejected:
            self.rejected.append(rejected.get_secret_value())
        return SecretStr(f"{self.prefix}-{len(self.rejected) + 1}")


@dataclass(frozen=True)
class Operation:
    """One of the two operations, and what a success of it looks like."""

    name: str
    path: str
    sent: dict[str, str]
    answer: dict[str, Any]
    result: Snapshot | Closed


PREPARE = Operation(
    name="prepareDailyBatchSnapshot",
    path="/orders/batches/prepareSnapshot",
    sent={"tenantId": "acme", "batchId": "eu"},
    answer={"snapshotId": "snap-1", "ok": True, "orders": 12},
    result=Snapshot("snap-1"),
)
CLOSE = Operation(
    name="closeDailyBatch",
    path="/orders/batches/close",
    sent={"tenantId": "acme", "batchId": "eu", "snapshotId": "snap-1"},
    answer={"ok": True, "closedAt": "2026-03-01T22:05:00Z"},
    result=Closed(CLOSED_AT),
)


@dataclass
class Wire:
    """The Orders API's end of the wire, and how our end behaved."""

    router: respx.Router
    tokens: Tokens = field(default_factory=Tokens)
    waits: list[float] = field(default_factory=list)
    chance: float = 0.0

    def answers(self, *replies: httpx.Response | Exception) -> None:
        """What the Orders API will answer, one reply after the other."""
        self.router.post(host="orders.test").mock(side_effect=replies)

    async def run(
        self, operation: Operation, *, resumed: bool = False, key: str = KEY, **settings: Any
    ) -> object:
        """Carry the operation out against those answers."""
        pace = Pace(now=lambda: NOW, sleep=self._sleep, chance=lambda: self.chance)
        orders = OrdersApi(**{"base_url": BASE, "max_attempts": 3} | settings).paced(pace)
        ids, how = operation.sent.values(), {"access_token": self.tokens, "idempotency_key": key}
        if operation.name == PREPARE.name:
            return await orders.prepare_daily_batch_snapshot(*ids, **how)
        return await orders.close_daily_batch(*ids, **how, resumed=resumed)

    async def fails(self, operation: Operation, **settings: Any) -> OrdersError:
        """Carry the operation out; the error it must end with."""
        with pytest.raises(OrdersError) as caught:
            await self.run(operation, **settings)
        return caught.value

    @property
    def requests(self) -> list[httpx.Request]:
        """The requests that arrived."""
        return [call.request for call in self.router.calls]

    def sent(self, header: str) -> list[str]:
        """This header of each request that arrived."""
        return [request.headers[header] for request in self.requests]

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with respx.mock(assert_all_called=False) as router:
        yield Wire(router)


@pytest.fixture(params=[PREPARE, CLOSE], ids=lambda operation: operation.name)
def operation(request: pytest.FixtureRequest) -> Operation:
    return request.param


def ok(operation: Operation) -> httpx.Response:
    return httpx.Response(200, json=operation.answer)


def problem(status: int, **body: object) -> httpx.Response:
    return httpx.Response(status, json=body)


async def test_a_success_is_one_post_with_the_ids_the_token_and_the_key(wire, operation):
    wire.answers(ok(operation))

    assert await wire.run(operation) == operation.result

    [request] = wire.requests
    assert str(request.url) == BASE + operation.path
    assert json.loads(request.content) == operation.sent
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Authorization"] == "Bearer token-1"
    assert request.headers["Idempotency-Key"] == f'"{KEY}"'


async def test_the_key_goes_bare_where_the_api_takes_it_bare(wire, operation):
    wire.answers(ok(operation))
    await wire.run(operation, quote_idempotency_key=False)
    assert wire.sent("Idempotency-Key") == [KEY]


async def test_the_timeouts_of_the_block_are_those_of_the_request(wire, operation):
    wire.answers(ok(operation))
    await wire.run(operation, connect_timeout=3, read_timeout=7)
    timeouts = wire.requests[0].extensions["timeout"]
    assert timeouts == {"connect": 3, "pool": 3, "read": None, "write": None}


@pytest.mark.parametrize("challenge", [{}, {"WWW-Authenticate": 'Bearer error="invalid_token"'}])
async def test_a_401_is_answered_with_a_fresh_token_and_the_same_key(wire, operation, challenge):
    wire.answers(httpx.Response(401, headers=challenge), ok(operation))

    assert await wire.run(operation, max_attempts=1) == operation.result

    assert wire.tokens.rejected == ["token-1"]
    assert wire.sent("Authorization") == ["Bearer token-1", "Bearer token-2"]
    assert wire.sent("Idempotency-Key") == [f'"{KEY}"'] * 2
    assert wire.waits == []


async def test_a_second_401_is_the_end(wire, operation):
    wire.answers(httpx.Response(401), httpx.Response(401))
    error = await wire.fails(operation)
    assert (type(error), error.status) == (OrdersUnauthorizedError, 401)
    assert len(wire.requests) == 2


async def test_a_401_after_the_one_refresh_is_the_end_even_at_a_later_attempt(wire, operation):
    wire.answers(httpx.Response(401), httpx.Response(503), httpx.Response(401))
    assert type(await wire.fails(operation)) is OrdersUnauthorizedError
    assert wire.tokens.rejected == ["token-1"]


async def test_a_token_that_no_header_can_carry_is_never_sent(wire, operation):
    wire.tokens.prefix = "two\nlines"
    error = await wire.fails(operation)
    assert (type(error), error.status, wire.requests) == (OrdersUnauthorizedError, None, [])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, OrdersBadRequestError),
        (403, OrdersForbiddenError),
        (404, OrdersNotFoundError),
        (409, OrdersConflictError),
        (418, OrdersRefusedError),
        (422, OrdersUnprocessableError),
    ],
)
async def test_a_refusal_is_final_and_says_who_what_and_why(wire, operation, status, kind):
    wire.answers(problem(status, title="Not tonight", detail="The day is open."))

    error = await wire.fails(operation)

    assert (type(error), error.status, error.operation) == (kind, status, operation.name)
    said = f"{operation.name} was answered {status} (Not tonight; The day is open.); "
    assert str(error).startswith(said)
    assert (len(wire.requests), wire.tokens.rejected) == (1, [])


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 599, 408, 425, 202])
async def test_passing_trouble_is_tried_again_with_the_same_key(wire, operation, status):
    wire.answers(httpx.Response(status), ok(operation))
    assert await wire.run(operation) == operation.result
    assert wire.sent("Idempotency-Key") == [f'"{KEY}"'] * 2
    assert wire.waits == [2.0]


@pytest.mark.parametrize(
    "lost",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
    ],
    ids=lambda lost: type(lost).__name__,
)
async def test_a_lost_connection_is_tried_again_with_the_same_key(wire, operation, lost):
    wire.answers(lost, ok(operation))
    assert await wire.run(operation) == operation.result
    assert wire.sent("Idempotency-Key") == [f'"{KEY}"'] * 2


async def test_the_attempts_end_and_the_error_says_that_another_run_is_safe(wire, operation):
    wire.answers(*[httpx.Response(503)] * 3)
    error = await wire.fails(operation)
    assert (type(error), error.status) == (OrdersUnavailableError, 503)
    assert "at attempt 3 of 3; running this night again is safe" in str(error)
    assert wire.waits == [2.0, 4.0]


async def test_an_unreachable_api_is_unavailable_without_a_status(wire, operation):
    wire.answers(*[httpx.ConnectError("All connection attempts failed")] * 3)
    error = await wire.fails(operation)
    assert (type(error), error.status) == (OrdersUnavailableError, None)
    assert "(ConnectError: All connection attempts failed)" in str(error)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        ("30", 30.0),
        ("Sun, 01 Mar 2026 22:00:45 GMT", 45.0),
        ("86400", 120.0),
        ("Mon, 02 Mar 2026 22:00:00 GMT", 120.0),
        ("0", 2.0),
        ("Sun, 01 Mar 2026 21:00:00 GMT", 2.0),
        ("soon", 2.0),
    ],
)
async def test_retry_after_is_honoured_in_both_forms_within_bounds(
    wire, operation, status, asked, waited
):
    wire.answers(httpx.Response(status, headers={"Retry-After": asked}), ok(operation))
    assert await wire.run(operation) == operation.result
    assert wire.waits == [waited]


async def test_the_token_is_asked_for_again_after_a_wait(wire, operation):
    wire.answers(httpx.Response(429, headers={"Retry-After": "90"}), ok(operation))
    await wire.run(operation)
    assert wire.tokens.asked == 2


async def test_chance_adds_up_to_a_quarter_to_a_wait_and_never_shortens_it(wire, operation):
    wire.chance = 1.0
    wire.answers(httpx.Response(429, headers={"Retry-After": "40"}), ok(operation))
    await wire.run(operation)
    assert wire.waits == [50.0]


async def test_the_wait_without_retry_after_doubles_up_to_half_a_minute(wire, operation):
    wire.answers(*[httpx.Response(500)] * 8)
    await wire.fails(operation, max_attempts=8)
    assert wire.waits == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


@pytest.mark.parametrize(
    "body",
    [
        {"error": "request_in_progress"},
        {"code": "IN-PROGRESS"},
        {"title": "A request is outstanding", "detail": "It is still processing."},
        {"error": {"message": "There is currently another in-progress request using this key"}},
        {"type": "processing"},
    ],
)
async def test_a_409_in_progress_passes(wire, operation, body):
    wire.answers(problem(409, **body), ok(operation))
    assert await wire.run(operation) == operation.result


async def test_a_409_in_progress_that_does_not_pass_is_unavailable(wire, operation):
    wire.answers(*[problem(409, code="inProgress")] * 3)
    error = await wire.fails(operation)
    assert (type(error), error.status) == (OrdersUnavailableError, 409)


ALREADY_CLOSED = [
    {"error": "already_closed"},
    {"code": "alreadyClosed"},
    {"type": "https://orders.test/problems/already-closed"},
    {"title": "Batch has already been closed"},
    {"error": {"code": "BATCH_ALREADY_CLOSED"}},
]


@pytest.mark.parametrize("body", ALREADY_CLOSED)
async def test_already_closed_at_the_first_attempt_is_somebody_elses_close(wire, operation, body):
    wire.answers(problem(409, **body))
    error = await wire.fails(operation)
    assert (type(error), error.status) == (BatchAlreadyClosedError, 409)


@pytest.mark.parametrize("body", ALREADY_CLOSED)
@pytest.mark.parametrize(
    "indefinite",
    [httpx.ReadTimeout("slow"), httpx.Response(502), httpx.Response(200), httpx.Response(202)],
    ids=["timeout", "502", "cut off", "202"],
)
async def test_already_closed_after_an_indefinite_attempt_is_our_close(wire, body, indefinite):
    wire.answers(indefinite, problem(409, **body, closedAt=CLOSED_AT.isoformat()))
    assert await wire.run(CLOSE) == Closed(CLOSED_AT)


@pytest.mark.parametrize(
    "definite",
    [httpx.ConnectError("refused"), httpx.Response(429), httpx.Response(401)],
    ids=["never sent", "429", "401"],
)
async def test_already_closed_after_an_attempt_that_did_nothing_is_not_ours(wire, definite):
    wire.answers(definite, problem(409, error="already_closed"))
    assert type(await wire.fails(CLOSE)) is BatchAlreadyClosedError


async def test_already_closed_in_a_resumed_run_is_our_close(wire):
    wire.answers(problem(409, error="already_closed"))
    assert await wire.run(CLOSE, resumed=True) == Closed(None)


@pytest.mark.parametrize("place", ["top", "nested"])
async def test_already_closed_with_our_snapshot_is_our_close(wire, place):
    named = {"snapshotId": "snap-1", "ok": False}
    wire.answers(
        problem(409, error="already_closed", **(named if place == "top" else {"x": named}))
    )
    assert await wire.run(CLOSE) == Closed(None)


async def test_already_closed_with_another_snapshot_is_never_ours(wire):
    wire.answers(httpx.Response(502), problem(409, error="already_closed", snapshotId="snap-2"))
    assert type(await wire.fails(CLOSE, resumed=True)) is BatchAlreadyClosedError


async def test_a_closed_batch_has_no_snapshot_to_prepare_even_after_a_lost_answer(wire):
    wire.answers(httpx.Response(502), problem(409, error="already_closed"))
    assert type(await wire.fails(PREPARE)) is BatchAlreadyClosedError


UNREADABLE = [b"", b'{"snapshotId": "snap-1", "o', b"<html>", b'["ok"]', b"null", b"\xff"]


@pytest.mark.parametrize("body", UNREADABLE)
async def test_an_unreadable_success_is_tried_again_with_the_same_key(wire, operation, body):
    wire.answers(httpx.Response(200, content=body), ok(operation))
    assert await wire.run(operation) == operation.result
    assert wire.sent("Idempotency-Key") == [f'"{KEY}"'] * 2


async def test_a_success_that_stays_unreadable_is_an_error(wire, operation):
    wire.answers(*[httpx.Response(200, content=b"<html>")] * 3)
    error = await wire.fails(operation)
    assert (type(error), error.status) == (OrdersUnreadableReplyError, 200)


@pytest.mark.parametrize(
    "snapshot_id",
    [None, "", "  ", 7, True, ["snap-1"], {"id": "snap-1"}, "a\0", "a\nb", "\ud800", 256 * "s"],
)
async def test_a_snapshot_without_a_proper_id_is_malformed(wire, snapshot_id):
    wire.answers(httpx.Response(201, content=json.dumps({"snapshotId": snapshot_id})))
    error = await wire.fails(PREPARE)
    assert (type(error), error.status) == (OrdersMalformedReplyError, 201)
    assert len(wire.requests) == 1


@pytest.mark.parametrize("body", [{}, {"ok": True}, {"snapshot_id": "snap-1"}])
async def test_a_snapshot_without_an_id_is_malformed(wire, body):
    wire.answers(problem(200, **body))
    assert type(await wire.fails(PREPARE)) is OrdersMalformedReplyError


async def test_a_success_without_a_body_closes_but_prepares_nothing(wire):
    for status in (204, 205):
        wire.answers(httpx.Response(status))
        assert await wire.run(CLOSE) == Closed(None)
    wire.answers(httpx.Response(204))
    assert type(await wire.fails(PREPARE)) is OrdersMalformedReplyError


@pytest.mark.parametrize(
    "moment", [None, "", "yesterday", "2026-03-01", "2026-03-01T22:05:00", 1772402700, {"at": 1}]
)
async def test_a_closing_moment_that_is_none_is_left_out(wire, moment):
    wire.answers(problem(200, ok=True, closedAt=moment))
    assert await wire.run(CLOSE) == Closed(None)


NO_UTC_MOMENT = [
    "0001-01-01T00:00:00+01:00",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999Z",
    "2026-03-01T22:05:00+24:00",
    "\ud800",
    "9" * 400,
    float("inf"),
]


@pytest.mark.parametrize("moment", NO_UTC_MOMENT)
@pytest.mark.parametrize("status", [200, 409])
async def test_a_closing_moment_that_no_time_zone_can_show_does_not_undo_the_close(
    wire, moment, status
):
    body = {"closedAt": moment, "error": "already_closed", "snapshotId": "snap-1"}
    wire.answers(httpx.Response(status, content=json.dumps(body)))
    assert await wire.run(CLOSE) == Closed(None)


async def test_a_closing_moment_is_told_in_utc(wire):
    wire.answers(problem(200, closedAt="2026-03-01T14:05:00-08:00"))
    closed = await wire.run(CLOSE)
    assert isinstance(closed, Closed)
    assert (closed.closed_at, closed.closed_at.tzinfo) == (CLOSED_AT, UTC)


@pytest.mark.parametrize("yes", [True, "true", "TRUE", " True ", 1, "1", "yes", "Yes"])
async def test_a_yes_counts_however_it_is_written(wire, operation, yes):
    wire.answers(problem(200, **operation.answer | {"ok": yes}))
    assert await wire.run(operation) == operation.result
    assert len(wire.requests) == 1


NEITHER = [None, "", "maybe", 2, -1, 0.5, [], [True], {}, {"value": True}]


@pytest.mark.parametrize("neither", NEITHER, ids=repr)
async def test_what_is_neither_yes_nor_no_is_tried_again_with_the_same_key(
    wire, operation, neither
):
    wire.answers(problem(200, **operation.answer | {"ok": neither}), ok(operation))
    assert await wire.run(operation) == operation.result
    assert wire.sent("Idempotency-Key") == [f'"{KEY}"'] * 2


async def test_what_stays_neither_yes_nor_no_is_no_definite_answer(wire, operation):
    wire.answers(*[problem(200, **operation.answer | {"ok": "perhaps"})] * 3)
    error = await wire.fails(operation)
    assert (type(error), error.status) == (OrdersUnreadableReplyError, 200)
    assert "was answered 200 with an `ok` that is neither yes nor no at attempt 3" in str(error)


async def test_after_neither_yes_nor_no_already_closed_is_our_close(wire):
    wire.answers(problem(200, ok=None), problem(409, error="already_closed"))
    assert await wire.run(CLOSE) == Closed(None)


@pytest.mark.parametrize("not_ok", [False, 0, "false", "False", " FALSE ", "no", "NO", "0"])
async def test_a_success_that_is_not_ok_is_a_failure(wire, operation, not_ok):
    wire.answers(problem(200, **operation.answer | {"ok": not_ok, "message": "Ledger locked"}))
    error = await wire.fails(operation)
    assert (type(error), error.status) == (OrdersNotOkError, 200)
    assert "was answered 200 (Ledger locked) but not ok; " in str(error)
    assert len(wire.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_error_and_is_not_followed(wire, operation, status):
    wire.answers(httpx.Response(status, headers={"Location": "https://elsewhere.test/close"}))
    error = await wire.fails(operation)
    assert (type(error), error.status) == (OrdersRedirectedError, status)
    assert "(https://elsewhere.test/close); set base_url" in str(error)
    assert len(wire.requests) == 1


async def test_a_huge_reply_is_dropped(wire, operation):
    wire.answers(httpx.Response(200, content=b" " * (1024 * 1024 + 1)))
    assert type(await wire.fails(operation)) is OrdersReplyTooLargeError
    assert len(wire.requests) == 1


async def test_ids_in_a_path_are_encoded_and_never_filled_in_twice(wire):
    sent = {"tenantId": "a/b?", "batchId": "{tenantId}", "snapshotId": "ü%"}
    odd = replace(CLOSE, sent=sent)
    wire.answers(ok(odd))

    await wire.run(odd, close_path="/t/{tenantId}/b/{batchId}/s/{snapshotId}?v={batchId}")

    raw = b"/v1/t/a%2Fb%3F/b/%7BtenantId%7D/s/%C3%BC%25?v=%7BtenantId%7D"
    assert wire.requests[0].url.raw_path == raw
    assert json.loads(wire.requests[0].content) == sent


TEMPLATES = {
    "prepare_snapshot_path": "/t/{tenantId}/{batchId}",
    "close_path": "/t/{tenantId}/{batchId}/{snapshotId}",
}
OTHERS_THAN_A_PATH_HOLDS = [
    *[(name, segment) for name in ("tenantId", "batchId") for segment in ("", ".", "..")],
    ("batchId", "\ud800"),
    ("batchId", "x" * 70_000),
]


@pytest.mark.parametrize(("name", "value"), OTHERS_THAN_A_PATH_HOLDS, ids=lambda text: text[:9])
async def test_an_id_that_cannot_stand_in_the_path_is_an_error_that_says_what_to_do(
    wire, operation, name, value
):
    odd = replace(operation, sent=operation.sent | {name: value})
    error = await wire.fails(odd, **TEMPLATES)
    assert (type(error), error.status, error.operation) == (
        OrdersUnsendableError,
        None,
        operation.name,
    )
    assert f"{operation.name} was not sent, as " in str(error)
    assert "give it another value" in str(error)
    assert len(str(error)) < 300
    assert str(error).isprintable()
    assert (wire.requests, wire.tokens.asked) == ([], 0)
    assert error.__context__ is None


async def test_a_snapshot_id_of_the_server_s_that_cannot_stand_in_the_path_is_such_an_error(wire):
    odd = replace(CLOSE, sent=CLOSE.sent | {"snapshotId": ".."})
    error = await wire.fails(odd, **TEMPLATES)
    assert type(error) is OrdersUnsendableError
    assert "snapshotId '..' cannot stand in a URL's path" in str(error)


async def test_an_id_that_no_body_can_carry_is_not_sent_either(wire, operation):
    odd = replace(operation, sent=operation.sent | {"tenantId": "a\udfff"})
    assert type(await wire.fails(odd)) is OrdersUnsendableError
    assert wire.requests == []


@pytest.mark.parametrize("key", ["", "a b", "a\r\nX: y", "ü", "\ud800"])
async def test_a_key_that_no_header_can_carry_is_an_error_that_says_so(wire, operation, key):
    error = await wire.fails(operation, key=key)
    assert type(error) is OrdersUnsendableError
    assert "idempotency_key must be visible ASCII" in str(error)
    assert wire.requests == []


async def test_a_quoted_key_is_escaped(wire):
    wire.answers(ok(CLOSE))
    orders = OrdersApi(base_url=BASE)
    await orders.close_daily_batch("t", "b", "s", access_token=wire.tokens, idempotency_key='a"\\')
    assert wire.sent("Idempotency-Key") == ['"a\\"\\\\"']


CANARY = "canary+/7f3a=="
ECHO = {"error": f"who is {CANARY}-1?", "message": f"{'x' * 170} {CANARY}-1"}


@pytest.mark.parametrize(
    "answer",
    [
        *[httpx.Response(s, json=ECHO) for s in (200, 400, 401, 403, 404, 409, 418, 422, 429, 503)],
        httpx.Response(200, json=ECHO | {"ok": False}),
        httpx.Response(200, text=f"{CANARY}-1"),
        httpx.Response(409, json=ECHO | {"code": "already_closed"}),
        httpx.Response(409, json=ECHO | {"code": "in_progress"}),
        httpx.Response(307, headers={"Location": f"https://elsewhere.test/?token={CANARY}-1"}),
        httpx.Response(200, content=f"{CANARY}-1".encode() * 100_000),
        httpx.ReadError(f"Illegal header value b'Bearer {CANARY}-1'"),
    ],
    ids=lambda answer: str(getattr(answer, "status_code", "lost")),
)
async def test_no_token_shows_in_any_error_or_log(wire, caplog, answer):
    wire.tokens.prefix = CANARY
    wire.answers(*[answer] * 4)
    logging.getLogger("prefect.blocks.orders").addHandler(caplog.handler)

    error = await wire.fails(PREPARE)

    shown = "".join(
        traceback.TracebackException.from_exception(error, capture_locals=True).format()
    )
    assert error.__cause__ is None
    assert error.__context__ is None
    everything = [str(error), repr(error), repr(vars(error)), shown, caplog.text]
    assert not [text for text in everything if "canary" in text]
    assert "blocks/orders/" in shown


async def test_neither_the_rejected_nor_the_fresh_token_shows(wire, operation):
    wire.tokens.prefix = CANARY
    echo = {"detail": f"{CANARY}-1 was no better than {CANARY}-2"}
    wire.answers(*[httpx.Response(401, json=echo)] * 2)
    assert "([hidden] was no better than [hidden])" in str(await wire.fails(operation))


def test_no_token_shows_in_a_block_and_no_block_can_hold_one():
    assert not [name for name in OrdersApi.model_fields if "token" in name or "secret" in name]


async def test_what_a_server_says_is_quoted_short_and_printable(wire):
    wire.answers(problem(400, detail="\x1b[31mred\r\nalert\u202e " + "x" * 5000))
    error = await wire.fails(CLOSE)
    assert "(" + ("[31mred alert " + "x" * 200)[:200] + ")" in str(error)
    assert str(error).isprintable()


async def test_an_error_survives_being_stored_with_a_failed_state(wire, operation):
    wire.answers(httpx.Response(503, headers={"Retry-After": "7"}))
    error = await wire.fails(operation, max_attempts=1)
    stored = pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own
    assert (type(stored), str(stored), vars(stored)) == (type(error), str(error), vars(error))
    assert stored.retry_after == 7


@pytest.mark.parametrize(
    ("field_name", "value"),
    [
        ("base_url", ""),
        ("base_url", "orders.test"),
        ("base_url", "ftp://orders.test"),
        ("base_url", "http://orders.test"),
        ("base_url", "https://"),
        ("base_url", "https://[::1"),
        ("base_url", "https://me:pw@orders.test"),
        ("base_url", "https://orders.test/v1?x=1"),
        ("base_url", "https://orders.test/#x"),
        ("prepare_snapshot_path", "orders"),
        ("prepare_snapshot_path", "/{snapshotId}"),
        ("prepare_snapshot_path", "/{tenantId.__class__}"),
        ("close_path", "/{tenant}"),
        ("close_path", "/{tenantId"),
        ("close_path", "/a b"),
        ("close_path", "/a#b"),
        ("connect_timeout", 0),
        ("read_timeout", float("nan")),
        ("max_attempts", 0),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(field_name, value):
    with pytest.raises(ValidationError, match=field_name):
        OrdersApi(**{"base_url": BASE, field_name: value})


@pytest.mark.parametrize("url", ["http://localhost:4200", "http://127.0.0.1/v1", "http://[::1]:80"])
def test_plain_http_is_fine_on_this_machine(url):
    assert OrdersApi(base_url=url).base_url == url


def test_plain_http_to_elsewhere_has_to_be_asked_for():
    assert OrdersApi(base_url="http://orders.internal", allow_http=True)
    for still_wrong in ("ftp://orders.internal", "http://"):
        with pytest.raises(ValidationError, match="base_url"):
            OrdersApi(base_url=still_wrong, allow_http=True)


def test_every_setting_explains_itself_in_the_ui():
    for settings in OrdersApi.model_fields.values():
        assert settings.title
        assert settings.examples
        assert settings.description.endswith(".")


ids = st.text(max_size=6) | st.text(alphabet='a-/",[]\\', max_size=4)
moments = st.datetimes(
    min_value=datetime(2000, 1, 1),  # noqa: DTZ001 -- hypothesis adds the zone
    max_value=datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.timezones(),
)
actions = st.tuples(ids, ids, moments, st.sampled_from(["prepareSnapshot", "close"]) | ids)


@given(actions, actions)
def test_two_actions_have_the_same_key_only_if_they_are_the_same(one, other):
    same = in_utc(one) == in_utc(other)
    assert (idempotency_key(*one) == idempotency_key(*other)) == same


def in_utc(action: tuple[str, str, datetime, str]) -> tuple[str, str, datetime, str]:
    tenant, batch, moment, operation = action
    return tenant, batch, moment.astimezone(UTC), operation


@given(st.lists(st.text(alphabet="ab-", max_size=3), min_size=3, max_size=3), st.data())
def test_no_way_of_cutting_one_text_into_parts_gives_two_the_same_key(parts, data):
    whole = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=2)))
    other = [whole[: cuts[0]], whole[cuts[0] : cuts[1]], whole[cuts[1] :]]
    keys = [idempotency_key(tenant, batch, NOW, op) for tenant, batch, op in (parts, other)]
    assert (keys[0] == keys[1]) == (parts == other)


def test_one_moment_has_one_key_in_every_time_zone_and_type():
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-7)))
    paris = pendulum.instance(NOW).in_timezone("Europe/Paris")
    keys = {idempotency_key("acme", "eu", moment, "close") for moment in (NOW, elsewhere, paris)}
    assert len(keys) == 1


def test_a_key_never_changes_from_release_to_release():
    assert idempotency_key("acme", "eu", NOW, "close") == "07f66f61-35ae-5165-ba82-7e142ac79188"


def test_a_moment_without_a_time_zone_is_no_occurrence():
    with pytest.raises(ValueError, match="occurrence must have a time zone"):
        idempotency_key("acme", "eu", NOW.replace(tzinfo=None), "close")
