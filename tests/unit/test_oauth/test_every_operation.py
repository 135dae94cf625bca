"""What exchange, refresh and revoke have in common: the same outcomes, met the same way."""

from base64 import b64decode
from datetime import timedelta
from email.utils import format_datetime
from urllib.parse import parse_qsl, unquote_plus

import httpx
import pytest
from joserfc import jwt

from blocks.http import MAX_REPLY_BYTES
from blocks.oauth import (
    ClientRefusedError,
    RedirectedError,
    ReplyLostError,
    ServerUnavailableError,
    UnusableReplyError,
)

CREDENTIALS = {"client_id", "client_secret", "client_assertion", "client_assertion_type"}


@pytest.fixture
def route(wire, operation):
    return wire.post(operation.path)


def answer(operation, status=200):
    return httpx.Response(status, json=operation.success)


def basic(request, _form):
    scheme, pair = request.headers["Authorization"].split()
    assert scheme == "Basic"
    return [unquote_plus(part) for part in b64decode(pair).decode().split(":")]


def post(request, form):
    assert "Authorization" not in request.headers
    return [form["client_id"], form["client_secret"]]


@pytest.mark.parametrize(
    ("method", "proof"), [("client_secret_basic", basic), ("client_secret_post", post)]
)
async def test_sends_exactly_this_form_and_the_client_s_secret(
    operation, make_server, route, method, proof
):
    route.return_value = answer(operation)
    await operation.run(make_server(token_endpoint_auth_method=method))
    request = route.calls.last.request
    form = parse_qsl(request.content.decode())
    assert [item for item in form if item[0] not in CREDENTIALS] == operation.form
    assert proof(request, dict(form)) == ["batch", "canary:secret+with %&"]


async def test_sends_exactly_this_form_and_a_signed_assertion(
    operation, make_server, route, sent, private_key
):
    route.return_value = answer(operation)
    await operation.run(make_server(token_endpoint_auth_method="private_key_jwt"))
    [form] = sent(route)
    assert [item for item in form if item[0] not in CREDENTIALS] == operation.form
    assert CREDENTIALS - dict(form).keys() == {"client_secret"}
    assert "Authorization" not in route.calls.last.request.headers
    claims = jwt.decode(dict(form)["client_assertion"], private_key).claims
    assert claims["iss"] == claims["sub"] == "batch"
    assert claims["aud"] == "https://auth.example.com/token"
    assert claims["exp"] == claims["iat"] + 60


async def test_a_public_client_sends_its_id_alone(operation, make_server, route, sent):
    route.return_value = answer(operation)
    await operation.run(make_server(token_endpoint_auth_method="none", client_secret=None))
    assert sent(route) == [[*operation.form, ("client_id", "batch")]]


async def test_a_refusal_is_final_and_named_for_the_operation(operation, server, route, clock):
    for code in ("invalid_grant", "invalid_request", "invalid_scope", "invalid_target"):
        for status in (400, 401, 403, 200):
            route.return_value = httpx.Response(status, json={"error": code})
            with pytest.raises(operation.refused, match=f"{status} {code}") as caught:
                await operation.run(server)
            assert (caught.value.code, caught.value.status) == (code, status)
    assert clock.slept == []


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "invalid_client"),
        (400, "invalid_client"),
        (400, "unauthorized_client"),
        (400, "unsupported_grant_type"),
        (401, "unauthorized"),
    ],
)
async def test_a_refused_client_is_our_fault_and_not_the_token_s(
    operation, server, route, status, code
):
    route.return_value = httpx.Response(status, json={"error": code})
    with pytest.raises(ClientRefusedError, match="check client_id"):
        await operation.run(server)
    assert route.call_count == 1


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(403, json={"error": "Forbidden", "status": 403}),
        httpx.Response(401, json={"error": {"message": "no"}}),
        httpx.Response(400, json=["invalid_grant"]),
        httpx.Response(404, text="<html>not here</html>"),
        httpx.Response(400, content=b"[" * 200_000),
    ],
)
async def test_a_refusal_that_is_no_oauth_error_decides_nothing_about_the_grant(
    operation, server, route, reply
):
    route.return_value = reply
    with pytest.raises(UnusableReplyError, match="check that the configured URL"):
        await operation.run(server)
    assert route.call_count == 1


async def test_a_redirect_is_never_followed(operation, server, wire, route):
    elsewhere = wire.post("/elsewhere")
    route.return_value = httpx.Response(307, headers={"Location": "/elsewhere"})
    with pytest.raises(RedirectedError, match="307"):
        await operation.run(server)
    assert not elsewhere.called


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout])
async def test_an_unreachable_server_is_tried_a_bounded_number_of_times(
    operation, server, route, clock, error
):
    route.side_effect = error("connection refused")
    with pytest.raises(ServerUnavailableError, match="connection refused"):
        await operation.run(server)
    assert 5 <= route.call_count <= 6
    assert round(sum(clock.slept), 3) <= 60


async def test_a_server_that_comes_back_is_not_noticed(operation, server, route):
    route.side_effect = [httpx.ConnectError("refused"), answer(operation)]
    await operation.run(server)
    assert route.call_count == 2


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured_in_both_its_forms(operation, server, route, clock, status):
    moment = format_datetime(clock.now() + timedelta(seconds=14), usegmt=True)
    route.side_effect = [
        httpx.Response(status, headers={"Retry-After": "7"}),
        httpx.Response(status, headers={"Retry-After": moment}),
        answer(operation),
    ]
    await operation.run(server)
    first, second = clock.slept
    assert 7 <= first <= 7.7
    assert 14 <= round(first + second, 3) <= 15


async def test_a_long_retry_after_is_cut_and_told(operation, server, route, clock):
    route.return_value = httpx.Response(429, headers={"Retry-After": "3600"})
    with pytest.raises(ServerUnavailableError) as caught:
        await operation.run(server)
    assert caught.value.retry_after == 3600
    assert round(sum(clock.slept), 3) <= 60
    assert route.call_count == 2


async def test_temporarily_unavailable_is_no_refusal(operation, server, route):
    busy = httpx.Response(400, json={"error": "temporarily_unavailable"})
    route.side_effect = [busy, answer(operation)]
    await operation.run(server)
    route.side_effect, route.return_value = None, busy
    with pytest.raises(ServerUnavailableError):
        await operation.run(server)


PASSING = [
    "slow_down",
    "rate_limit_exceeded",
    "rate_limited",
    "too_many_requests",
    "too_many_attempts",
    "TooManyRequests",
    "Too Many Requests",
    "throttled",
    "quota_exceeded",
    "try_again_later",
    "service_unavailable",
    "server_busy",
    "429",
    429,
]


@pytest.mark.parametrize("code", PASSING)
@pytest.mark.parametrize("status", [400, 401, 403, 200])
async def test_being_too_fast_for_the_server_is_no_refusal(operation, server, route, status, code):
    busy = httpx.Response(status, headers={"Retry-After": "3"}, json={"error": code})
    route.side_effect = [busy, answer(operation)]
    await operation.run(server)
    assert route.call_count == 2
    route.side_effect, route.return_value = None, busy
    with pytest.raises(ServerUnavailableError) as caught:
        await operation.run(server)
    assert (caught.value.status, caught.value.retry_after) == (status, 3)


LOST = [
    httpx.ReadError("gone"),
    httpx.ReadTimeout("slow"),
    httpx.WriteError("gone"),
    httpx.RemoteProtocolError("cut"),
    httpx.Response(500),
    httpx.Response(502, text="Bad Gateway"),
    httpx.Response(503),
    httpx.Response(504),
    httpx.Response(408),
    httpx.Response(200, content=b"x" * (MAX_REPLY_BYTES + 1)),
    httpx.Response(200, stream=httpx.ByteStream(b"nonsense"), headers={"Content-Encoding": "gzip"}),
]


@pytest.mark.parametrize("loss", LOST, ids=repr)
async def test_a_lost_reply_is_followed_by_a_prompt_retry(operation, server, route, clock, loss):
    route.side_effect = [loss, answer(operation)]
    await operation.run(server)
    assert route.call_count == 2
    assert sum(clock.slept) < 0.5


async def test_every_attempt_sends_the_same_token_and_a_fresh_assertion(
    operation, make_server, route, sent, private_key
):
    lost = [httpx.ReadError("gone"), httpx.ReadTimeout("slow")]
    route.side_effect = [*lost, answer(operation)]
    await operation.run(make_server(token_endpoint_auth_method="private_key_jwt"))
    forms = [dict(form) for form in sent(route)]
    assertions = [form.pop("client_assertion") for form in forms]
    assert forms == [forms[0]] * 3
    assert len({jwt.decode(text, private_key).claims["jti"] for text in assertions}) == 3


async def test_lost_replies_are_retried_twice_within_five_seconds_and_no_more(
    operation, server, route, clock
):
    route.side_effect = httpx.ReadError("gone")
    with pytest.raises(ReplyLostError, match="ReadError"):
        await operation.run(server)
    assert route.call_count == 3
    assert round(sum(clock.slept), 3) <= 5


async def test_a_reply_lost_slowly_leaves_no_time_for_a_late_retry(operation, server, route, clock):
    def time_out(_request):
        clock.time += timedelta(seconds=10)
        raise httpx.ReadTimeout("slow")

    route.side_effect = time_out
    with pytest.raises(ReplyLostError):
        await operation.run(server)
    assert route.call_count == 2


async def test_once_a_reply_is_lost_the_call_stays_in_doubt(operation, server, route, clock):
    busy = httpx.Response(429, headers={"Retry-After": "30"})
    route.side_effect = [httpx.ReadError("gone"), busy, httpx.ConnectError("refused")]
    with pytest.raises(ReplyLostError):
        await operation.run(server)
    assert round(sum(clock.slept), 3) <= 5.5
