import json
from base64 import urlsafe_b64encode
from datetime import timedelta

import httpx
import pytest
from pydantic import SecretStr

from blocks.oauth import (
    ExchangeRefusedError,
    NoRefreshTokenError,
    TenantMismatchError,
    UnusableReplyError,
)

REFRESH_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:refresh_token"


def exchange(server, tenant_id="acme"):
    return server.exchange(SecretStr("caller"), tenant_id=tenant_id)


def plain(secret):
    return secret.get_secret_value()


def a_jwt(claims):
    payload = urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"


async def test_yields_both_tokens_and_when_the_access_token_ends(
    server, token_route, granted, clock
):
    token_route.return_value = granted()
    tokens = await exchange(server)
    assert plain(tokens.access_token) == "canary-new-access"
    assert plain(tokens.refresh_token) == "canary-new-refresh"
    assert tokens.expires_at == clock.now() + timedelta(seconds=300)
    assert "canary" not in repr(tokens) + str(tokens)


async def test_asks_for_everything_that_is_configured_and_nothing_else(
    make_server, token_route, granted, sent
):
    token_route.return_value = granted()
    server = make_server(
        token_endpoint_auth_method="none",
        audience=["orders-batch", "billing"],
        resource="https://orders.example.com/",
        scope="offline_access",
        requested_token_type=REFRESH_TOKEN_TYPE,
        subject_token_type="urn:ietf:params:oauth:token-type:jwt",
        extra_exchange_parameters={"subject_issuer": "corporate"},
    )
    await exchange(server)
    assert sent(token_route) == [
        [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", "caller"),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("audience", "orders-batch"),
            ("audience", "billing"),
            ("resource", "https://orders.example.com/"),
            ("scope", "offline_access"),
            ("requested_token_type", REFRESH_TOKEN_TYPE),
            ("subject_issuer", "corporate"),
            ("client_id", "batch"),
        ]
    ]


async def test_no_audience_is_sent_where_none_is_configured(
    make_server, token_route, granted, sent
):
    token_route.return_value = granted()
    await exchange(make_server(audience=[]))
    assert "audience" not in dict(sent(token_route)[0])


async def test_the_refresh_token_may_come_as_the_issued_token_itself(server, token_route, granted):
    token_route.return_value = granted(
        refresh_token=None, issued_token_type=REFRESH_TOKEN_TYPE, token_type="N_A"
    )
    tokens = await exchange(server)
    assert plain(tokens.refresh_token) == "canary-new-access"
    assert tokens.access_token is None


async def test_a_refresh_token_beside_the_access_token_wins_whatever_type_was_issued(
    server, token_route, granted
):
    token_route.return_value = granted(issued_token_type=REFRESH_TOKEN_TYPE)
    tokens = await exchange(server)
    assert plain(tokens.refresh_token) == "canary-new-refresh"
    assert plain(tokens.access_token) == "canary-new-access"


@pytest.mark.parametrize("refresh_token", [None, ""])
async def test_no_refresh_token_fails_loudly(server, token_route, granted, refresh_token):
    token_route.return_value = granted(refresh_token=refresh_token)
    with pytest.raises(NoRefreshTokenError, match="requested_token_type"):
        await exchange(server)


async def test_a_refresh_token_of_null_is_none(server, token_route):
    token_route.respond(json={"access_token": "a", "token_type": "Bearer", "refresh_token": None})
    with pytest.raises(NoRefreshTokenError):
        await exchange(server)


UNREADABLE = [7, 0, False, [], ["RT"], {"value": "RT"}, "RT\n", "\tRT", "é", "RT\0"]


@pytest.mark.parametrize("refresh_token", UNREADABLE, ids=repr)
async def test_a_refresh_token_that_cannot_be_read_is_not_taken_for_absent(
    server, token_route, granted, refresh_token
):
    token_route.return_value = granted(refresh_token=refresh_token)
    with pytest.raises(UnusableReplyError, match="its refresh_token cannot be read"):
        await exchange(server)


@pytest.mark.parametrize("refresh_token", ["RT ", " RT", "R T", "~!"])
async def test_a_refresh_token_is_taken_as_it_is_spaces_and_all(
    server, token_route, granted, refresh_token
):
    token_route.return_value = granted(refresh_token=refresh_token)
    assert plain((await exchange(server)).refresh_token) == refresh_token


async def test_an_issued_refresh_token_is_taken_as_it_is_too(server, token_route, granted):
    token_route.return_value = granted(
        refresh_token=None,
        access_token=" RT ",
        issued_token_type=REFRESH_TOKEN_TYPE,
        token_type="N_A",
    )
    assert plain((await exchange(server)).refresh_token) == " RT "


async def test_a_token_without_a_type_is_a_bearer_token(server, token_route, granted):
    token_route.return_value = granted(token_type=None)
    tokens = await exchange(server)
    assert plain(tokens.access_token) == "canary-new-access"
    assert tokens.token_type == "Bearer"


async def test_a_type_of_null_names_no_bearer_token(server, token_route):
    token_route.respond(json={"access_token": "a", "refresh_token": "r", "token_type": None})
    assert (await exchange(server)).access_token is None


@pytest.mark.parametrize("token_type", ["N_A", "DPoP", "mac", "", 5])
async def test_only_a_bearer_token_may_be_sent_as_one(server, token_route, granted, token_type):
    token_route.return_value = granted(token_type=token_type)
    tokens = await exchange(server)
    assert tokens.access_token is None
    assert tokens.refresh_token is not None


async def test_bearer_is_spelled_in_any_case(server, token_route, granted):
    token_route.return_value = granted(token_type="bEaReR")
    assert (await exchange(server)).access_token is not None


@pytest.mark.parametrize(
    "nonsense",
    [
        httpx.Response(200, text="<html>welcome</html>"),
        httpx.Response(200, json=["canary"]),
        httpx.Response(204),
        httpx.Response(200, json={}),
        httpx.Response(200, json={"access_token": "", "refresh_token": "r"}),
        httpx.Response(200, json={"access_token": None, "refresh_token": "r"}),
        httpx.Response(200, content=b'{"access_token": "\xff"}'),
    ],
    ids=lambda reply: reply.text[:30],
)
async def test_a_success_without_a_token_is_none(server, token_route, nonsense):
    token_route.return_value = nonsense
    with pytest.raises(UnusableReplyError, match="has no access_token"):
        await exchange(server)
    assert token_route.call_count == 1


@pytest.mark.parametrize("access_token", [*UNREADABLE, "AT "], ids=repr)
async def test_an_access_token_that_cannot_be_read_is_told_as_that(
    server, token_route, granted, access_token
):
    token_route.return_value = granted(access_token=access_token)
    with pytest.raises(UnusableReplyError, match="its access_token cannot be read"):
        await exchange(server)


@pytest.mark.parametrize("code", ["oops", "invalid_token", "consent_required"])
async def test_any_code_refuses_an_exchange_for_good(server, token_route, code):
    token_route.respond(400, json={"error": code})
    with pytest.raises(ExchangeRefusedError, match="check the caller's token"):
        await exchange(server)
    assert token_route.call_count == 1


@pytest.mark.parametrize(
    ("claims", "tenant"),
    [({"org": "acme"}, "acme"), ({"org": 42}, "42"), ({"org": "käse"}, "käse")],
)
async def test_the_tenant_s_own_token_passes_the_check(
    make_server, token_route, granted, claims, tenant
):
    token_route.return_value = granted(access_token=a_jwt(claims))
    await exchange(make_server(tenant_claim="org"), tenant)


@pytest.mark.parametrize(
    "access_token",
    [
        a_jwt({"org": "rival"}),
        a_jwt({"org": "Acme"}),
        a_jwt({"org": True}),
        a_jwt({"org": ["acme"]}),
        a_jwt({}),
        a_jwt("acme"),
        "opaque",
        "a.!!.c",
        "a.b",
    ],
)
async def test_any_other_token_fails_it_and_its_grant_is_ended(
    make_server, wire, granted, sent, access_token
):
    wire.post("/token").return_value = granted(access_token=access_token)
    revocation = wire.post("/revoke").respond(400, json={"error": "unsupported_token_type"})
    with pytest.raises(TenantMismatchError, match="'org'"):
        await exchange(make_server(tenant_claim="org"))
    assert dict(sent(revocation)[0])["token"] == "canary-new-refresh"


async def test_without_an_access_token_the_tenant_check_fails(
    make_server, wire, token_route, granted
):
    token_route.return_value = granted(token_type="N_A")
    wire.post("/revoke").respond(200)
    with pytest.raises(TenantMismatchError, match="unset tenant_claim"):
        await exchange(make_server(tenant_claim="org"))
