"""Whatever an outside system answers, it is read, or refused by an error of its own family."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.http import Reply, retry_after
from blocks.oauth import OAuthError
from blocks.oauth.callers import Caller, Expected
from blocks.oauth.kinds import refuse_other_kinds
from blocks.oauth.metadata import read_metadata
from blocks.oauth.operations import EXCHANGE, REFRESH
from blocks.oauth.replies import judge
from blocks.oauth.tokens import LONGEST_LIFETIME, read_exchange, read_refresh
from blocks.orders import OrdersError
from blocks.orders.progress import Progress
from blocks.orders.replies import judge as judge_orders
from blocks.orders.results import read_closed, read_snapshot
from blocks.reply import MAX_DEPTH

NOW = datetime(2026, 11, 23, 22, tzinfo=UTC)
SECRET = "canary-secret-0123456789"


def nested(depth: int) -> object:
    value: object = "x"
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = st.sampled_from(
    [
        10**400,
        -(10**4299),
        2**64,
        float("inf"),
        float("nan"),
        "9" * 5_000,
        "1e999999",
        "\ud800",
        "\x00",
        "9999-12-31T23:59:59+23:59",
        "0001-01-01T00:00:00-23:59",
        nested(MAX_DEPTH - 5),
        nested(900),
        {"error": {"message": nested(50)}},
        "x" * 100_000,
        SECRET,
        f"{SECRET[:12]}...{SECRET[-12:]}",
        None,
        True,
    ]
)
MEMBERS = st.sampled_from(
    [
        *("access_token", "refresh_token", "issued_token_type", "token_type", "expires_in"),
        *("error", "error_description", "issuer", "token_endpoint", "jwks_uri", "active", "ok"),
        *("snapshotId", "closedAt", "detail", "message", "exp", "nbf", "iat", "aud", "iss"),
        *("tenant_id", "typ", "token_use", "events", "grant_types_supported"),
    ]
)
BODIES = st.dictionaries(MEMBERS, HOSTILE | st.text(max_size=20) | st.integers(), max_size=6)
STATUSES = st.sampled_from([200, 201, 202, 204, 302, 400, 401, 403, 404, 409, 422, 429, 500, 503])
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Retry-After": st.sampled_from(["9" * 5_000, "1e9", "-1", "٣", "Mon, 99 Nov 9999", ""]),
        "Location": st.just(f"https://evil.example/?{SECRET}"),
    },
)
replies = given(status=STATUSES, headers=HEADERS, body=BODIES)


def reply_of(status: int, headers: dict[str, str], body: dict[str, object]) -> Reply:
    fields = httpx.Headers({name: value.encode() for name, value in headers.items()})
    return Reply(status, fields, json.dumps(body).encode())


@replies
def test_an_oauth_servers_reply_is_read_or_refused(status, headers, body):
    reply = reply_of(status, headers, body)
    for operation, read in ((EXCHANGE, read_exchange), (REFRESH, read_refresh)):
        try:
            judge(reply, operation, secrets=[SECRET], now=NOW)
            tokens = read(reply, NOW, 60.0)
            assert NOW <= tokens.expires_at <= NOW + timedelta(seconds=LONGEST_LIFETIME)
        except OAuthError as error:
            said = str(error)
        else:
            said = ""
        assert "canary-s" not in said
        assert len(said) < 2_000


@replies
def test_an_issuers_metadata_is_read_or_refused(status, headers, body):
    document = {"issuer": "https://auth.example.com", **body}
    with suppress(OAuthError):
        read_metadata(document, "https://auth.example.com")


@replies
def test_what_is_said_of_a_token_is_read_or_refused(status, headers, body):
    expected = Expected("https://auth.example.com", "journeys", "tenant_id")
    for required in (True, False):
        with suppress(OAuthError):
            refuse_other_kinds(body)
            assert isinstance(expected.read(body, NOW, required=required), Caller)


@replies
def test_an_orders_apis_reply_is_read_or_refused(status, headers, body):
    reply = reply_of(status, headers, body)
    progress = Progress("closeDailyBatch", 3, snapshot_id="s-1")
    try:
        judge_orders(reply, progress, NOW)
        read_closed(reply)
        read_snapshot(reply, "prepareDailyBatchSnapshot")
    except OrdersError as error:
        said = str(error)
    else:
        said = ""
    assert len(said) < 2_000


@pytest.mark.parametrize("value", ["9" * 5_000, "9" * 400, "٣"])
def test_a_retry_after_beyond_all_numbers_is_a_long_one(value):
    wait = retry_after(httpx.Headers({"Retry-After": value.encode()}), NOW)
    assert wait is None or wait >= 0
