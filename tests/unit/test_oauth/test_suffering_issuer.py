"""An issuer that is away, slow or garbled: it is asked little, and good callers are served."""

import asyncio

import httpx
import pytest
from joserfc import jws
from pydantic import SecretStr

from blocks.oauth import (
    CallerRefusedError,
    DiscoveryFailedError,
    OAuthError,
    ServerUnavailableError,
    introspection,
    keys,
    shared_fetch,
)
from tests.unit.test_oauth.conftest import BASE
from tests.unit.test_oauth.test_callers import (
    KEY,
    OTHER_KEY,
    UNKNOWN_KINDS,
    by_asking,
    by_keys,
    in_base64,
    jwks,
    published,
    signed,
)

__all__ = ["by_asking", "by_keys", "jwks", "signed"]  # fixtures

OUTAGES = {
    "404": httpx.Response(404),
    "HTML": httpx.Response(200, text="<html>back soon</html>"),
    "401": httpx.Response(401, json={"error": "invalid_client"}),
    "500": httpx.Response(500),
    "no keys": httpx.Response(200, json={"keys": []}),
    "no list": httpx.Response(200, json={"keys": 1}),
    "nothing": httpx.Response(200, json={}),
    "no usable key": httpx.Response(200, json={"keys": UNKNOWN_KINDS}),
    "too deep": httpx.Response(200, content=b'{"keys": ' + b"[" * 900 + b"]" * 900 + b"}"),
    "too large": httpx.Response(200, content=b" " * 2_000_000),
    "unreachable": httpx.ConnectError("away"),
}
outages = pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES.keys())


def slowly(reply):
    async def answer(_request):
        await asyncio.sleep(0.02)
        return reply

    return answer


def unknown_tokens(signed, count):
    header = {"alg": "RS256"}
    return [signed(key=OTHER_KEY, header={**header, "kid": f"stranger-{n}"}) for n in range(count)]


async def refused_or_failed(server, token):
    with pytest.raises(OAuthError) as caught:
        await server.verify_caller(token)
    return caught.value


@outages
async def test_good_callers_are_served_by_the_last_good_keys(by_keys, jwks, signed, clock, outage):
    await by_keys.verify_caller(signed())
    jwks.mock(side_effect=[outage] * 99)
    for _ in range(20):
        await clock.sleep(3601)
        assert (await by_keys.verify_caller(signed())).may_act_for("acme")


@outages
async def test_the_last_good_keys_are_believed_for_a_day_and_no_longer(
    by_keys, jwks, signed, clock, outage
):
    await by_keys.verify_caller(signed())
    jwks.mock(side_effect=[outage] * 99)
    await clock.sleep(3600 * 24 + 1)
    assert not isinstance(await refused_or_failed(by_keys, signed()), CallerRefusedError)


@outages
async def test_sixty_bad_tokens_cost_an_issuer_without_keys_a_handful_of_fetches(
    by_keys, jwks, signed, outage
):
    jwks.mock(side_effect=[outage] * 999)
    for token in unknown_tokens(signed, 60):
        assert not isinstance(await refused_or_failed(by_keys, token), CallerRefusedError)
    assert jwks.call_count <= 6


async def test_sixty_bad_tokens_at_once_cost_a_good_issuer_one_fetch(by_keys, jwks, signed, clock):
    jwks.mock(side_effect=slowly(httpx.Response(200, json=published(KEY))))
    tokens = unknown_tokens(signed, 60)
    ended = await asyncio.gather(
        *(by_keys.verify_caller(token) for token in [*tokens, signed()]), return_exceptions=True
    )
    assert {type(error) for error in ended[:-1]} == {CallerRefusedError}
    assert ended[-1].may_act_for("acme")
    assert jwks.call_count == 1


async def test_nobody_is_kept_waiting_by_a_key_set_that_hangs(
    by_keys, jwks, signed, clock, monkeypatch
):
    await by_keys.verify_caller(signed())
    monkeypatch.setattr(keys, "WAITED_FOR", 0.05)
    asked, answer = [], asyncio.Event()

    async def hang(request):
        asked.append(request)
        await answer.wait()
        return httpx.Response(200, json=published(KEY))

    jwks.mock(side_effect=hang)
    await clock.sleep(3601)
    async with asyncio.timeout(0.5):
        for _ in range(20):
            assert (await by_keys.verify_caller(signed())).may_act_for("acme")
    assert len(asked) == 1
    answer.set()
    await asyncio.sleep(0.01)
    assert (await by_keys.verify_caller(signed())).may_act_for("acme")
    assert len(asked) == 1


async def test_a_failure_is_told_again_for_some_seconds_and_then_asked_anew(
    by_keys, jwks, signed, monkeypatch
):
    monkeypatch.setattr(shared_fetch, "FAILURE_KEPT_FOR", 0.1)
    jwks.mock(side_effect=[httpx.Response(404)] * 9)
    for _ in range(3):
        await refused_or_failed(by_keys, signed())
    assert jwks.call_count == 1
    await asyncio.sleep(0.11)
    jwks.mock(return_value=httpx.Response(200, json=published(KEY)))
    assert (await by_keys.verify_caller(signed())).may_act_for("acme")


async def test_an_issuer_without_metadata_is_not_asked_for_it_by_each_caller(make_server, wire):
    places = wire.route(method="GET")
    places.respond(404)
    server = make_server(issuer=BASE, caller_verification="introspection", tenant_claim="t")
    for number in range(60):
        error = await refused_or_failed(server, SecretStr(f"token-{number}"))
        assert isinstance(error, DiscoveryFailedError)
    assert places.call_count == 2


def test_of_ten_thousand_keys_the_first_hundred_are_read():
    entry = KEY.as_dict(private=False)
    document = {"keys": [{**entry, "kid": str(number)} for number in range(10_000)]}
    assert list(keys._usable(document)) == [str(number) for number in range(100)]  # noqa: SLF001


@pytest.mark.parametrize(
    "away",
    [
        httpx.ConnectError("refused"),
        httpx.Response(429),
        httpx.Response(502),
        httpx.Response(503),
        httpx.Response(504),
    ],
    ids=repr,
)
async def test_an_introspection_endpoint_that_is_away_is_left_alone_for_some_seconds(
    by_asking, wire, away, monkeypatch
):
    monkeypatch.setattr(introspection, "FAILURE_KEPT_FOR", 0.1)
    route = wire.post("/introspect")
    route.mock(side_effect=[away] * 999)
    for number in range(60):
        error = await refused_or_failed(by_asking, SecretStr(f"token-{number}"))
        assert not isinstance(error, CallerRefusedError)
    assert route.call_count <= 2
    await asyncio.sleep(0.11)
    route.mock(
        return_value=httpx.Response(
            200, json={"active": True, "tenant_id": "acme", "aud": "journeys"}
        )
    )
    assert (await by_asking.verify_caller(SecretStr("good"))).may_act_for("acme")


async def test_a_token_that_makes_the_issuer_fail_keeps_no_other_out(by_asking, wire):
    def answer(request):
        if b"poison" in request.content:
            return httpx.Response(500)
        return httpx.Response(200, json={"active": True, "tenant_id": "acme", "aud": "journeys"})

    route = wire.post("/introspect")
    route.mock(side_effect=answer)
    for number in range(20):
        await refused_or_failed(by_asking, SecretStr(f"poison-{number}"))
        caller = await by_asking.verify_caller(SecretStr(f"good-{number}"))
        assert caller.may_act_for("acme")
    assert route.call_count == 40


async def test_a_slow_introspection_endpoint_has_few_tokens_at_once(by_asking, wire, monkeypatch):
    monkeypatch.setattr(introspection, "WAITED_FOR", 0.1)
    answered = asyncio.Event()

    async def answer(_request):
        await answered.wait()
        return httpx.Response(200, json={"active": False})

    route = wire.post("/introspect")
    route.mock(side_effect=answer)
    asked = {
        asyncio.create_task(by_asking.verify_caller(SecretStr(f"token-{number}")))
        for number in range(60)
    }
    waiting = asked
    while len(waiting) > introspection.AT_ONCE:  # the others are told so after a moment
        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    answered.set()
    ended = await asyncio.gather(*asked, return_exceptions=True)
    kinds = [type(error) for error in ended]
    assert kinds.count(CallerRefusedError) == introspection.AT_ONCE
    assert kinds.count(ServerUnavailableError) == 60 - introspection.AT_ONCE
    assert route.call_count == introspection.AT_ONCE


HOSTILE_HEADERS = {
    "none": b'{"alg": "none", "kid": "one"}',
    "NONE": b'{"alg": "NONE", "kid": "one"}',
    "a list of algorithms": b'{"alg": ["RS256"], "kid": "one"}',
    "no algorithm": b'{"kid": "one"}',
    "an unencoded payload": b'{"alg": "RS256", "kid": "one", "b64": false, "crit": ["b64"]}',
    "an unknown extension": b'{"alg": "RS256", "kid": "one", "crit": ["x"], "x": 1}',
    "critical for nothing": b'{"alg": "RS256", "kid": "one", "crit": []}',
    "a key of its own": b'{"alg": "RS256", "jwk": {"kty": "oct", "k": "AAAA"}, "kid": "one"}',
    "an odd kid": b'{"alg": "RS256", "kid": {"a": [1]}}',
    "a huge kid": b'{"alg": "RS256", "kid": "' + b"k" * 50_000 + b'"}',
    "a huge number": b'{"alg": "RS256", "kid": ' + b"9" * 10_000 + b"}",
    "deep": b'{"alg": "RS256", "x": ' + b"[" * 200 + b"]" * 200 + b"}",
    "too deep": b"[" * 100_000,
    "no object": b'"RS256"',
    "no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("header", HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS.keys())
async def test_a_hostile_token_is_refused_and_costs_nothing(by_keys, jwks, signed, header):
    payload, signature = signed().get_secret_value().split(".")[1:]
    for parts in ([header, None], [header, b"[" * 100_000], [header, b'{"a": ' + b"9" * 9_000]):
        body = payload if parts[1] is None else in_base64(parts[1])
        token = SecretStr(f"{in_base64(header)}.{body}.{signature}")
        assert isinstance(await refused_or_failed(by_keys, token), CallerRefusedError)


@pytest.mark.parametrize(
    "claims",
    [b"[" * 50_000 + b"]" * 50_000, b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", b"[]", b"1"],
    ids=["a deep list", "a deep member", "a list", "a number"],
)
async def test_what_the_issuer_itself_signs_may_be_garbled(by_keys, jwks, claims):
    token = jws.serialize_compact({"alg": "RS256", "kid": "one"}, claims, KEY)
    assert isinstance(await refused_or_failed(by_keys, SecretStr(token)), CallerRefusedError)


@pytest.mark.parametrize(
    "exp",
    [10**400, -(10**400), float("inf"), float("nan"), "9" * 9_000, [[]], {"a": 1}, None],
    ids=lambda value: str(value)[:12],
)
async def test_no_time_whatsoever_raises(by_keys, jwks, signed, exp):
    for name in ("exp", "nbf", "iat"):
        try:
            await by_keys.verify_caller(signed(**{name: exp}))
        except CallerRefusedError:
            continue
