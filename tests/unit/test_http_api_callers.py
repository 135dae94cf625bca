"""Who is served by the Journeys API, and what becomes of the token that they bring."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import shake_256

import httpx
import pytest
import respx
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.oauth import OAuthServer, introspection
from deployments.http_api.app import create_app
from deployments.own_token import TokenFinder

START = "/api/v1/journeys/daily-orders-batch-close/start"
STATUS = "/api/v1/journeys/00000000-0000-0000-0000-000000000000"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2F1dGguZXhhbXBsZS5jb20ifQ.kC4n4rY-s1Gn4tUr3_zZ9q"
LONG_TOKEN = TOKEN + shake_256(b"canary").hexdigest(2000)
WANTED = {
    "tenantId": "acme",
    "batchId": "eod",
    "firstRunAt": "2030-01-01T23:00:00Z",
    "interval": "P1D",
    "maxRuns": 3,
}
PLACE = {"token_endpoint": "https://auth.example.com/token", "client_id": "c", "client_secret": "s"}

Answer = Callable[[httpx.Request], httpx.Response]


@asynccontextmanager
async def client_of(server: OAuthServer, **options) -> AsyncIterator[httpx.AsyncClient]:
    async def load() -> OAuthServer:
        return server

    transport = httpx.ASGITransport(create_app(load, serves_unverified=True), **options)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
async def unverified() -> AsyncIterator[httpx.AsyncClient]:
    nowhere = {PREFECT_API_URL: "http://127.0.0.1:9/api"}  # Prefect starts one by itself otherwise
    with temporary_settings(nowhere):
        async with client_of(OAuthServer(**PLACE)) as client:
            yield client


@pytest.fixture
async def verified() -> AsyncIterator[httpx.AsyncClient]:
    """Where the issuer is asked about every token."""
    introspection._endpoints.clear()  # noqa: SLF001 - what a new process begins with
    server = OAuthServer(
        **PLACE,
        caller_verification="introspection",
        introspection_endpoint="https://auth.example.com/introspect",
        tenant_claim="tenant_id",
    )
    async with client_of(server) as client:
        yield client


@pytest.fixture
def issuer():
    with respx.mock(assert_all_called=False) as router:
        yield router.post("https://auth.example.com/introspect")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def shows_a_piece(text: str) -> bool:
    _header, payload, signature = TOKEN.split(".")
    return any(
        part[at : at + 8] in text for part in (payload, signature) for at in range(len(part) - 7)
    )


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded: for=192.0.2.60",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Host: journeys.example.com",
        "X-Forwarded-Proto: https",
        "X-Original-Forwarded-For: 127.0.0.1",
        "X-Real-IP: 192.0.2.60",
        "Via: 1.1 proxy.example.com",
        "CF-Connecting-IP: 192.0.2.60",
        "True-Client-IP: 192.0.2.60",
        "X-Envoy-External-Address: 192.0.2.60",
    ],
)
async def test_unverified_callers_are_not_served_through_a_proxy(unverified, header):
    name, value = header.split(": ")
    direct = await unverified.post(START, headers=bearer("anybody"))
    relayed = await unverified.post(START, headers={**bearer("anybody"), name: value})
    assert (direct.status_code, relayed.status_code) == (415, 503)
    assert "no proxy" in relayed.json()["detail"]


async def test_unverified_callers_are_not_served_through_a_proxy_that_says_nothing_of_itself():
    app = create_app(lambda: asyncio.sleep(0, OAuthServer(**PLACE)), serves_unverified=True)

    async def in_http_1_0(scope, receive, send):
        await app({**scope, "http_version": "1.0"}, receive, send)

    transport = httpx.ASGITransport(in_http_1_0)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.post(START, headers=bearer("anybody"))).status_code == 503


@pytest.mark.parametrize(
    ("peer", "status"),
    [("127.0.0.1", 415), ("::1", 415), ("192.0.2.7", 503), ("10.0.0.1", 503), ("", 503)],
)
async def test_unverified_callers_are_served_on_the_same_machine_only(peer, status):
    async with client_of(OAuthServer(**PLACE), client=(peer, 1)) as client:
        assert (await client.post(START, headers=bearer("anybody"))).status_code == status


async def test_unverified_callers_are_served_only_where_somebody_has_asked_for_that():
    transport = httpx.ASGITransport(create_app(lambda: asyncio.sleep(0, OAuthServer(**PLACE))))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.post(START, headers=bearer("anybody"))
    assert answer.status_code == 503
    assert "--unverified" in answer.json()["detail"]


async def test_verified_callers_may_come_through_a_proxy(verified, issuer):
    issuer.respond(json={"active": True, "tenant_id": "acme"})
    headers = {**bearer(TOKEN), "X-Forwarded-For": "192.0.2.60"}
    assert (await verified.post(START, headers=headers)).status_code == 415


@pytest.mark.parametrize(
    "query", [f"access_token={TOKEN}", "access_token=", f"t={TOKEN}", f"x=1&a=%65{TOKEN[1:]}"]
)
@pytest.mark.parametrize("path", [START, STATUS])
async def test_a_token_in_the_url_is_refused_and_not_shown(unverified, caplog, query, path):
    caplog.set_level(logging.DEBUG)
    method = "POST" if path == START else "GET"
    for headers in (bearer(TOKEN), {}):
        if not headers and "access_token" not in query:
            continue  # nobody can know it for a token
        answer = await unverified.request(method, f"{path}?{query}", headers=headers)
        assert answer.status_code == 401, answer.text
        assert 'error="invalid_request"' in answer.headers["WWW-Authenticate"]
        assert not shows_a_piece(answer.text)
    ours = [
        it.getMessage() for it in caplog.records if not it.name.startswith(("httpx", "httpcore"))
    ]
    assert not shows_a_piece("\n".join(ours))


async def test_who_is_not_known_has_no_query_searched_at_length(verified, issuer, monkeypatch):
    issuer.respond(json={"active": False})
    searched = []
    monkeypatch.setattr(TokenFinder, "is_in", lambda _, text: searched.append(text))
    answer = await verified.get(f"{STATUS}?{'a=b&' * 5000}", headers=bearer(LONG_TOKEN))
    assert answer.status_code == 401
    assert searched == []


@pytest.mark.parametrize("query", [f"a={'x' * 30_000}", "%25252541" * 3000])
async def test_a_long_query_of_a_known_caller_takes_nobodys_time(query):
    seconds = []
    async with client_of(OAuthServer(**PLACE)) as client:
        for _ in range(3):  # the best of three: the machine may be busy
            began = time.process_time()
            answer = await client.post(f"{START}?{query}", headers=bearer(LONG_TOKEN))
            seconds.append(time.process_time() - began)
    assert answer.status_code == 415
    assert min(seconds) < 0.05


async def test_a_key_that_is_far_too_long_is_not_searched(unverified, monkeypatch):
    searched = []
    monkeypatch.setattr("deployments.journeys.refuse_own_token", lambda *_: None)
    monkeypatch.setattr(TokenFinder, "is_in", lambda _, text: searched.append(text))
    headers = {**bearer(LONG_TOKEN), "Idempotency-Key": "k" * 20_000}
    answer = await unverified.post(START, json=WANTED, headers=headers)
    assert answer.status_code == 400
    assert not [text for text in searched if text.startswith("k")]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"token": TOKEN}, "token"),
        ({"note": f"use {TOKEN}, please"}, "note"),
        ({"headers": {"Cookie": f"s={TOKEN}"}}, "headers"),
        ({"batchId": TOKEN}, "batchId"),
        ({"tenantId": TOKEN}, "tenantId"),
        ({"interval": TOKEN}, "interval"),
        ({"firstRunAt": TOKEN}, "firstRunAt"),
        ({"maxRuns": TOKEN}, "maxRuns"),
        ({"timeZone": TOKEN}, "timeZone"),
        ({"note": TOKEN.rpartition(".")[2]}, "note"),
        ({TOKEN: 1}, "request"),
        ({TOKEN[:60]: 1}, "request"),
    ],
)
async def test_the_token_in_a_request_is_refused_and_not_shown(unverified, caplog, changed, field):
    caplog.set_level(logging.DEBUG)
    answer = await unverified.post(START, json=WANTED | changed, headers=bearer(TOKEN))
    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert not shows_a_piece(answer.text)
    ours = [
        it.getMessage() for it in caplog.records if not it.name.startswith(("httpx", "httpcore"))
    ]
    assert not shows_a_piece("\n".join(ours))


@pytest.mark.parametrize("key", [TOKEN, f'"{TOKEN}"', f"try-1-{TOKEN}", TOKEN.rpartition(".")[2]])
async def test_the_token_as_a_key_is_refused_and_not_shown(unverified, key):
    headers = {**bearer(TOKEN), "Idempotency-Key": key}
    answer = await unverified.post(START, json=WANTED, headers=headers)
    assert answer.status_code == 400, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == ["Idempotency-Key"]
    assert not shows_a_piece(answer.text)


async def test_who_comes_with_the_same_token_at_once_shares_one_introspection(verified, issuer):
    async def slowly(_request):
        await asyncio.sleep(0.02)
        return httpx.Response(200, json={"active": True, "tenant_id": "acme"})

    issuer.mock(side_effect=slowly)
    calls = (verified.post(START, headers=bearer(TOKEN)) for _ in range(60))
    assert {answer.status_code for answer in await asyncio.gather(*calls)} == {415}
    assert issuer.call_count == 1


async def test_a_bad_token_that_comes_again_is_not_asked_about_each_time(verified, issuer):
    issuer.respond(json={"active": False})
    for _ in range(60):
        answer = await verified.post(START, headers=bearer(TOKEN))
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert issuer.call_count == 1


async def test_bad_tokens_do_not_make_anybody_forget_a_good_one(verified, issuer):
    issuer.mock(
        side_effect=lambda request: httpx.Response(
            200, json={"active": b"good" in request.content, "tenant_id": "acme"}
        )
    )
    await verified.post(START, headers=bearer("good"))
    for number in range(100):
        await verified.post(START, headers=bearer(f"bad-{number}"))
    issuer.mock(side_effect=httpx.ConnectError("away"))
    assert (await verified.post(START, headers=bearer("good"))).status_code == 415


async def test_sixty_bad_tokens_at_a_suffering_issuer_are_told_503_and_when_to_come(
    verified, issuer
):
    issuer.mock(side_effect=[httpx.Response(503)] * 999)
    calls = (verified.post(START, headers=bearer(f"{TOKEN}{n}")) for n in range(60))
    answers = await asyncio.gather(*calls)
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["Retry-After"] for answer in answers} == {"5"}
    assert issuer.call_count <= introspection.AT_ONCE
