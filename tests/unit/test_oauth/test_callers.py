"""Whom the HTTP API believes: tokens verified by the issuer's keys, or by asking the issuer."""

import asyncio
import hmac
from base64 import urlsafe_b64encode
from urllib.parse import parse_qsl

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from pydantic import SecretStr, ValidationError

from blocks.oauth import CallerRefusedError, OAuthError, OAuthServer, ServerUnavailableError
from tests.unit.test_oauth.conftest import BASE

ISSUER = BASE
KEY = RSAKey.generate_key(2048, parameters={"kid": "one", "use": "sig", "alg": "RS256"})
OTHER_KEY = RSAKey.generate_key(2048, parameters={"kid": "two"})


@pytest.fixture
def by_keys(make_server):
    return make_server(
        issuer=ISSUER,
        jwks_uri=f"{BASE}/jwks",
        caller_verification="jwks",
        caller_tenant_claim="tenant_id",
        caller_audience="journeys",
    )


@pytest.fixture
def by_asking(make_server):
    return make_server(
        introspection_endpoint=f"{BASE}/introspect",
        caller_verification="introspection",
        caller_tenant_claim="tenant_id",
        caller_audience="journeys",
    )


@pytest.fixture
def jwks(wire):
    route = wire.get("/jwks")
    route.respond(json=published(KEY))
    return route


def in_base64(data):
    return urlsafe_b64encode(data).decode().rstrip("=")


def published(*keys):
    return {"keys": [key.as_dict(private=False) for key in keys]}


@pytest.fixture
def signed(clock):
    """A token of the issuer's; claims set to None are left out."""

    def sign(key=KEY, header=None, **changed):
        claims = {
            "iss": ISSUER,
            "aud": ["journeys", "others"],
            "exp": int(clock.now().timestamp()) + 300,
            "tenant_id": "acme",
            **changed,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        header = header or {"alg": "RS256", "kid": "one"}
        return SecretStr(jwt.encode(header, claims, key, algorithms=[header["alg"]]))

    return sign


async def test_a_good_jwt_names_its_tenant(by_keys, jwks, signed):
    caller = await by_keys.verify_caller(signed())
    assert caller.may_act_for("acme")
    assert not caller.may_act_for("Acme")
    assert not caller.may_act_for("")


@pytest.mark.parametrize(
    ("claim", "tenants"),
    [
        (["a", "b"], {"a", "b"}),
        (7, {"7"}),
        (None, set()),
        ({"a": 1}, set()),
        ([True, None, "a"], {"a"}),
    ],
)
async def test_the_claim_may_list_tenants(by_keys, jwks, signed, claim, tenants):
    caller = await by_keys.verify_caller(signed(tenant_id=claim))
    assert caller.tenants == tenants


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"aud": "others"},
        {"aud": None},
        {"exp": 1_000_000_000},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": 4_000_000_000},
        {"key": OTHER_KEY},
        {"key": OTHER_KEY, "header": {"alg": "RS256", "kid": "unheard-of"}},
    ],
)
async def test_any_other_jwt_is_refused(by_keys, jwks, signed, changed):
    token = signed(**changed)
    with pytest.raises(CallerRefusedError) as caught:
        await by_keys.verify_caller(token)
    assert token.get_secret_value() not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_no_algorithm_lets_a_stranger_sign(by_keys, jwks, signed):
    claims = signed().get_secret_value().split(".")[1]
    unsigned = in_base64(b'{"alg": "none", "kid": "one"}') + f".{claims}."
    signing_input = in_base64(b'{"alg": "HS256", "kid": "one"}') + f".{claims}"
    public_key = KEY.as_pem(private=False)  # known to everybody, so no secret to sign with
    mac = hmac.digest(public_key, signing_input.encode(), "sha256")
    for token in (unsigned, f"{signing_input}.{in_base64(mac)}"):
        with pytest.raises(CallerRefusedError):
            await by_keys.verify_caller(SecretStr(token))


@pytest.mark.parametrize("text", ["opaque", "a.b.c", "..", "e30.e30.e30"])
async def test_what_is_no_jwt_is_refused(by_keys, jwks, text):
    with pytest.raises(CallerRefusedError):
        await by_keys.verify_caller(SecretStr(text))


async def test_keys_are_fetched_once_an_hour(by_keys, jwks, signed, clock):
    for _ in range(3):
        await by_keys.verify_caller(signed())
    assert jwks.call_count == 1
    await clock.sleep(3601)
    await by_keys.verify_caller(signed())
    assert jwks.call_count == 2


async def test_a_key_that_is_new_is_found(by_keys, jwks, signed, clock):
    await by_keys.verify_caller(signed())
    jwks.respond(json=published(KEY, OTHER_KEY))
    await clock.sleep(31)
    token = signed(key=OTHER_KEY, header={"alg": "RS256", "kid": "two"})
    assert (await by_keys.verify_caller(token)).may_act_for("acme")
    assert jwks.call_count == 2


async def test_strangers_keys_do_not_make_us_ask_each_time(by_keys, jwks, signed, clock):
    stranger = signed(key=OTHER_KEY, header={"alg": "RS256", "kid": "stranger"})
    for _ in range(5):
        with pytest.raises(CallerRefusedError):
            await by_keys.verify_caller(stranger)
    assert jwks.call_count == 1


async def test_known_keys_outlast_an_issuer_that_is_away(by_keys, jwks, signed, clock):
    await by_keys.verify_caller(signed())
    await clock.sleep(3601)
    jwks.mock(side_effect=httpx.ConnectError("away"))
    assert (await by_keys.verify_caller(signed())).may_act_for("acme")


@pytest.mark.parametrize(
    "away",
    [
        httpx.Response(404),
        httpx.Response(302, headers={"Location": "https://maintenance.example.com/"}),
        httpx.Response(200, text="<html>back soon</html>"),
    ],
    ids=lambda reply: str(reply.status_code),
)
async def test_known_keys_outlast_whatever_answers_in_the_issuer_s_place(
    by_keys, jwks, signed, caplog, away
):
    await by_keys.verify_caller(signed())
    jwks.mock(side_effect=[away] * 9)
    for _ in range(3):
        await by_keys._clock.sleep(3601)  # noqa: SLF001 - the test's own
        assert (await by_keys.verify_caller(signed())).may_act_for("acme")
    assert caplog.text.count("New keys are not available") == 1


async def test_strangers_keys_do_not_make_us_ask_each_time_in_an_outage_either(
    by_keys, jwks, signed, clock
):
    await by_keys.verify_caller(signed())
    jwks.mock(side_effect=[httpx.Response(404)] * 9)
    await clock.sleep(3601)
    stranger = signed(key=OTHER_KEY, header={"alg": "RS256", "kid": "stranger"})
    for _ in range(5):
        with pytest.raises(CallerRefusedError):
            await by_keys.verify_caller(stranger)
    assert jwks.call_count == 2


async def test_who_calls_at_the_same_time_shares_one_fetch_of_the_keys(by_keys, jwks, signed):
    async def slowly(_request):
        await asyncio.sleep(0.02)
        return httpx.Response(200, json=published(KEY))

    jwks.mock(side_effect=slowly)
    await asyncio.gather(*(by_keys.verify_caller(signed()) for _ in range(9)))
    assert jwks.call_count == 1


async def test_without_any_key_it_cannot_be_told(by_keys, jwks, signed):
    jwks.mock(side_effect=httpx.ConnectError("away"))
    with pytest.raises(ServerUnavailableError):
        await by_keys.verify_caller(signed())


UNKNOWN_KINDS = [
    1,
    {},
    {"kty": "?"},
    {"kty": ["RSA"]},
    {"kty": "RSA", "n": 1},
    {"kty": "oct", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAA", "kid": "one"},
    {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "one"},
    KEY.as_dict(private=False) | {"use": "enc"},
]


async def test_keys_of_unknown_kinds_are_passed_over(by_keys, jwks, signed):
    jwks.respond(json={"keys": [*UNKNOWN_KINDS, KEY.as_dict(private=False)]})
    assert (await by_keys.verify_caller(signed())).may_act_for("acme")


async def test_a_key_for_encryption_verifies_nothing(by_keys, jwks, signed):
    encrypting = KEY.as_dict(private=False) | {"use": "enc"}
    jwks.respond(json={"keys": [encrypting, OTHER_KEY.as_dict(private=False)]})
    with pytest.raises(CallerRefusedError):
        await by_keys.verify_caller(signed())


async def test_the_only_key_needs_no_id(make_server, jwks, signed):
    key = ECKey.generate_key("P-256")
    jwks.respond(json=published(key))
    server = make_server(
        issuer=ISSUER, jwks_uri=f"{BASE}/jwks", caller_verification="jwks", tenant_claim="tenant_id"
    )
    caller = await server.verify_caller(signed(key=key, header={"alg": "ES256"}))
    assert caller.may_act_for("acme")


@pytest.mark.parametrize("mode", ["jwks", "introspection"])
async def test_endpoints_are_discovered_where_they_are_left_out(make_server, wire, signed, mode):
    wire.get("/.well-known/oauth-authorization-server").respond(
        json={
            "issuer": ISSUER,
            "token_endpoint": f"{BASE}/token",
            "jwks_uri": f"{BASE}/jwks",
            "introspection_endpoint": f"{BASE}/introspect",
        }
    )
    wire.get("/jwks").respond(json=published(KEY))
    wire.post("/introspect").respond(json={"active": True, "tenant_id": "acme"})
    server = make_server(issuer=ISSUER, caller_verification=mode, tenant_claim="tenant_id")
    assert (await server.verify_caller(signed())).may_act_for("acme")


async def test_introspection_asks_with_our_credentials(by_asking, wire):
    route = wire.post("/introspect")
    route.respond(json={"active": True, "aud": "journeys", "tenant_id": ["acme", "other"]})
    caller = await by_asking.verify_caller(SecretStr("canary-caller"))
    assert caller.tenants == {"acme", "other"}
    request = route.calls.last.request
    assert request.headers["Authorization"].startswith("Basic ")
    assert dict(parse_qsl(request.content.decode())) == {
        "token": "canary-caller",
        "token_type_hint": "access_token",
    }


@pytest.mark.parametrize(
    "said",
    [
        {"active": False},
        {"active": "true", "aud": "journeys"},
        {},
        {"active": True, "tenant_id": "acme"},
        {"active": True, "tenant_id": "acme", "aud": "others"},
        {"active": True, "tenant_id": "acme", "aud": "journeys", "exp": 1},
    ],
)
async def test_what_the_server_does_not_vouch_for_is_refused(by_asking, wire, said):
    wire.post("/introspect").respond(json=said)
    with pytest.raises(CallerRefusedError):
        await by_asking.verify_caller(SecretStr("canary-caller"))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(401, json={"error": "invalid_client"}),
        httpx.Response(200, text="canary-caller"),
        httpx.Response(302, headers={"Location": "https://elsewhere.example/"}),
        httpx.ReadError("canary-caller"),
    ],
)
async def test_a_server_that_cannot_tell_refuses_nobody(by_asking, wire, answer):
    wire.post("/introspect").mock(side_effect=[answer] * 9)
    with pytest.raises(OAuthError) as caught:
        await by_asking.verify_caller(SecretStr("canary-caller"))
    assert not isinstance(caught.value, CallerRefusedError)
    assert "canary" not in str(caught.value)


async def test_without_verification_anybody_may_act_for_anybody(server):
    assert (await server.verify_caller(SecretStr("x"))).may_act_for("acme")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"caller_verification": "jwks", "issuer": ISSUER}, "caller_tenant_claim"),
        ({"caller_verification": "jwks", "tenant_claim": "t"}, "issuer"),
        ({"caller_verification": "introspection", "tenant_claim": "t"}, "introspection_endpoint"),
        ({"jwks_uri": "http://auth.example.com/jwks"}, "jwks_uri"),
        ({"introspection_endpoint": "ftp://auth.example.com/"}, "introspection_endpoint"),
        ({"caller_verification": "trust"}, "caller_verification"),
    ],
)
def test_what_cannot_verify_is_refused_naming_the_field(fields, field):
    with pytest.raises(ValidationError, match=field):
        OAuthServer(
            token_endpoint="https://auth.example.com/token",
            client_id="batch",
            client_secret="canary",
            **fields,
        )
