import asyncio
import logging
import time
from datetime import UTC, datetime
from functools import partial
from threading import Thread

import httpx
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st

from blocks.http import (
    MAX_REPLY_BYTES,
    NotJsonError,
    Reply,
    ReplyTooLargeError,
    is_safe_url,
    retry_after,
    send,
    shared_client,
)
from blocks.oauth.call import Timeouts

NOW = datetime(2026, 11, 23, 22, tzinfo=UTC)
URL = "https://api.example.com/thing"


@pytest.fixture
def route():
    with respx.mock(assert_all_called=False) as router:
        yield router.get(URL)


def get(**options):
    return send(shared_client().build_request("GET", URL), **options)


async def test_a_reply_is_read_to_its_end(route):
    route.respond(201, json={"a": 1})
    reply = await get()
    assert (reply.status, reply.json_object()) == (201, {"a": 1})


async def test_a_reply_of_the_largest_size_is_read_and_a_larger_one_dropped(route):
    route.return_value = httpx.Response(200, content=b"x" * MAX_REPLY_BYTES)
    assert len((await get()).body) == MAX_REPLY_BYTES
    route.return_value = httpx.Response(200, content=b"x" * (MAX_REPLY_BYTES + 1))
    with pytest.raises(ReplyTooLargeError):
        await get()


async def test_a_reply_that_drips_for_ever_is_given_up(route):
    async def drip(_request):
        await asyncio.sleep(10)

    route.side_effect = drip
    with pytest.raises(httpx.ReadTimeout, match="within"):
        await get(within=0.01)


async def test_a_reply_that_cannot_be_decoded_is_no_reply(route):
    route.return_value = httpx.Response(
        200, stream=httpx.ByteStream(b"nonsense"), headers={"Content-Encoding": "gzip"}
    )
    with pytest.raises(httpx.TransportError):
        await get()


def test_no_header_of_a_reply_is_logged(caplog):
    log = logging.getLogger("httpcore.http11")
    with caplog.at_level(logging.DEBUG, log.name):
        log.debug("receive_response_headers.complete return_value=[(b'location', b'/?a-token')]")
    assert caplog.messages == ["receive_response_headers.complete"]


async def test_a_redirect_is_not_followed(route):
    route.respond(307, headers={"Location": "https://elsewhere.example.com/"})
    assert (await get()).status == 307


async def test_every_request_asks_for_an_uncompressed_reply_and_has_timeouts(route):
    route.respond(200)
    await get()
    request = route.calls.last.request
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.extensions["timeout"]["read"] is not None


async def test_what_one_reply_sets_as_a_cookie_goes_along_with_no_other_request(route):
    route.respond(200, json={}, headers={"Set-Cookie": "JSESSIONID=of-tenant-a; Path=/"})
    await get()
    await get()
    assert "Cookie" not in route.calls.last.request.headers


async def test_one_event_loop_shares_one_client():
    client = shared_client()
    assert shared_client() is client


def test_plain_http_and_this_machine_are_never_asked_for_through_a_proxy(monkeypatch):
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")

    async def answer(_reader, writer):
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def ask():
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            request = shared_client().build_request("GET", f"http://127.0.0.1:{port}/")
            reply = await send(request)
            await shared_client().aclose()
            return reply.status

    assert asyncio.run(ask()) == 204


@pytest.mark.parametrize("body", [b"", b"[1]", b"null", b"<html>", b"\xff", b"[" * 200_000])
def test_anything_but_a_json_object_is_refused_without_quoting_it(body):
    with pytest.raises(NotJsonError) as caught:
        Reply(200, httpx.Headers(), body).json_object()
    assert caught.value.__context__ is None


def test_a_reply_keeps_its_contents_out_of_its_repr():
    reply = Reply(200, httpx.Headers({"Set-Cookie": "canary"}), b"canary")
    assert "canary" not in repr(reply)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("Mon, 23 Nov 2026 22:00:30 GMT", 30),
        ("Mon, 23 Nov 2026 22:00:30 -0000", 30),
        ("Mon, 23 Nov 2026 21:00:00 GMT", 0),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("Mon, 23 Nov 2026 22:00:30 +99999999999999999999", None),
        ("Mon, 23 Nov 99999 22:00:30 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_its_forms(value, seconds):
    assert retry_after(httpx.Headers({"Retry-After": value}), NOW) == seconds


def test_no_retry_after_is_none():
    assert retry_after(httpx.Headers(), NOW) is None


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_no_retry_after_whatsoever_raises(value):
    wait = retry_after(httpx.Headers({"Retry-After": value}), NOW)
    assert wait is None or wait >= 0


@pytest.mark.parametrize(
    "url",
    [
        "https://auth.example.com/token",
        "http://localhost:9000/",
        "HTTP://LOCALHOST/",
        "http://127.0.0.1/",
        "http://127.9.9.9/",
        "http://[::1]:9000/",
    ],
)
def test_a_token_may_travel_here(url):
    assert is_safe_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://auth.example.com/",
        "http://localhost@evil.example.com/",
        "http://localhost\\@evil.example.com/",
        "http://localhost.evil.example.com/",
        "http://10.0.0.1/",
        "http://[::1",
        "https://",
        "https:///path",
        "ftp://localhost/",
        "localhost",
        "",
        "https://a\x00b/",
    ],
)
def test_a_token_may_not_travel_here(url):
    assert not is_safe_url(url)


async def answers_after(seconds, reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(seconds)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    await writer.drain()


@pytest.fixture
def slow_server():
    """A server in a thread of its own, which answers after 0.9 seconds."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    answer = partial(answers_after, 0.9)
    starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(answer, "127.0.0.1", 0), loop)
    host, port = starting.result().sockets[0].getsockname()
    yield f"http://{host}:{port}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def test_what_was_answered_while_the_process_stood_still_is_read(slow_server):
    timeouts = Timeouts(connect=1, read=1)
    asyncio.get_running_loop().call_later(0.1, time.sleep, 5)  # nothing runs meanwhile

    reply = await send(timeouts.build("GET", slow_server, {}), within=timeouts.whole)

    assert reply.json_object() == {}


async def test_the_time_for_an_answer_counts_from_when_the_request_was_sent(slow_server):
    timeouts = Timeouts(connect=60, read=0.1)
    began = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        await send(timeouts.build("GET", slow_server, {}), within=timeouts.whole)
    assert time.monotonic() - began < 5
