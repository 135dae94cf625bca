import logging
from datetime import timedelta

import httpx
import pytest
from joserfc import jwt
from pydantic import SecretStr

from blocks.lease import OwnershipUnknownError
from blocks.oauth import (
    GrantLostError,
    RefreshRefusedError,
    ReplyLostError,
    ServerUnavailableError,
)

DEFAULT_LIFETIME = 60


def refresh(server, **options):
    return server.refresh(SecretStr("stored"), **options)


async def test_yields_the_rotated_token(server, token_route, granted):
    token_route.return_value = granted()
    tokens = await refresh(server)
    assert tokens.access_token.get_secret_value() == "canary-new-access"
    assert tokens.refresh_token.get_secret_value() == "canary-new-refresh"
    assert tokens.token_type == "Bearer"


async def test_a_reply_without_a_refresh_token_leaves_the_old_one_to_the_caller(
    server, token_route, granted
):
    token_route.return_value = granted(refresh_token=None)
    assert (await refresh(server)).refresh_token is None


@pytest.mark.parametrize("refresh_token", [None, ""])
async def test_null_and_nothing_are_no_new_refresh_token(server, token_route, refresh_token):
    reply = {"access_token": "a", "token_type": "Bearer", "refresh_token": refresh_token}
    token_route.respond(json=reply)
    tokens = await refresh(server)
    assert tokens.access_token.get_secret_value() == "a"
    assert tokens.refresh_token is None


UNREADABLE = [7, 0, False, [], ["RT"], {"value": "RT"}, "RT\n", "\tRT", "é"]


@pytest.mark.parametrize("refresh_token", UNREADABLE, ids=repr)
async def test_a_rotated_token_that_cannot_be_read_is_not_taken_for_absent(
    server, token_route, granted, refresh_token
):
    token_route.return_value = granted(refresh_token=refresh_token)
    with pytest.raises(ReplyLostError, match="its new refresh_token cannot be read"):
        await refresh(server)


@pytest.mark.parametrize("refresh_token", ["RT ", " RT", "R T", " "])
async def test_a_rotated_token_is_taken_as_it_is_spaces_and_all(
    server, token_route, granted, sent, refresh_token
):
    token_route.return_value = granted(refresh_token=refresh_token)
    tokens = await refresh(server)
    assert tokens.refresh_token.get_secret_value() == refresh_token
    await server.refresh(tokens.refresh_token)
    assert dict(sent(token_route)[-1])["refresh_token"] == refresh_token


async def test_an_access_token_that_cannot_be_read_is_told_as_that(server, token_route, granted):
    token_route.return_value = granted(access_token=["AT"], refresh_token=None)
    with pytest.raises(ReplyLostError, match="its access_token cannot be read"):
        await refresh(server)


async def test_a_token_without_a_type_is_a_bearer_token(server, token_route, granted):
    token_route.return_value = granted(token_type=None)
    assert (await refresh(server)).access_token.get_secret_value() == "canary-new-access"


@pytest.mark.parametrize(
    "spoiled",
    [
        {"token_type": "N_A"},
        {"access_token": None},
        {"access_token": 7},
        {"access_token": "a\nb"},
        {"access_token": "a "},
    ],
    ids=repr,
)
async def test_a_rotated_token_is_never_thrown_away(server, token_route, granted, spoiled):
    token_route.return_value = granted(**spoiled)
    tokens = await refresh(server)
    assert tokens.access_token is None
    assert tokens.refresh_token.get_secret_value() == "canary-new-refresh"


@pytest.mark.parametrize(
    "nonsense",
    [
        httpx.Response(200, text="<html>welcome</html>"),
        httpx.Response(200, json={}),
        httpx.Response(200, json={"access_token": "a", "token_type": "N_A"}),
    ],
    ids=lambda reply: reply.text[:30],
)
async def test_a_yes_that_grants_nothing_may_still_have_used_up_the_token(
    server, token_route, nonsense
):
    token_route.return_value = nonsense
    with pytest.raises(ReplyLostError, match="may be used up"):
        await refresh(server)
    assert token_route.call_count == 3


async def test_a_refusal_after_a_lost_reply_means_the_grant_is_lost(server, token_route):
    refusal = httpx.Response(400, json={"error": "invalid_request"})
    token_route.side_effect = [httpx.ReadTimeout("slow"), refusal]
    with pytest.raises(GrantLostError, match="configure this batch again"):
        await refresh(server)


DEAD = [
    "invalid_grant",
    "invalid_request",
    "invalid_token",
    "access_denied",
    "expired_token",
    "consent_required",
    "interaction_required",
    "login_required",
    "invalid_scope",
    "invalid_target",
]


@pytest.mark.parametrize("code", DEAD)
@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_grant_is_given_up_only_for_a_code_that_tells_of_it(
    server, token_route, status, code
):
    token_route.respond(status, json={"error": code})
    with pytest.raises(GrantLostError, match="configure this batch again"):
        await refresh(server)
    assert token_route.call_count == 1


@pytest.mark.parametrize(
    "code", ["oops", "maintenance", "ip_not_allowed", "certificate_expired", "policy_violation"]
)
@pytest.mark.parametrize("status", [400, 401, 403, 200])
async def test_a_code_that_nobody_knows_keeps_the_grant_and_says_what_to_look_at(
    server, token_route, status, code
):
    token_route.respond(status, json={"error": code, "error_description": "Ask us."})
    with pytest.raises(RefreshRefusedError, match="the grant is kept") as caught:
        await refresh(server)
    assert not isinstance(caught.value, GrantLostError)
    assert f"({status} {code}: Ask us)" in str(caught.value)
    assert "look this code up" in str(caught.value)
    assert (caught.value.code, caught.value.status) == (code, status)
    assert token_route.call_count == 1


async def test_an_unknown_refusal_after_a_lost_reply_keeps_the_grant_too(server, token_route):
    refusal = httpx.Response(400, json={"error": "oops"})
    token_route.side_effect = [httpx.ReadTimeout("slow"), refusal]
    with pytest.raises(RefreshRefusedError):
        await refresh(server)


async def test_what_a_call_began_with_is_logged_where_it_ends_in_something_else(
    server, token_route, granted, caplog
):
    logging.getLogger("prefect.blocks.oauth").addHandler(caplog.handler)
    unreadable = granted(refresh_token="canary-rotated\n")
    token_route.side_effect = [unreadable, httpx.Response(400, json={"error": "invalid_grant"})]
    with pytest.raises(GrantLostError):
        await refresh(server)
    assert "The refresh is tried again in 0.1 s." in caplog.text
    assert "its new refresh_token cannot be read" in caplog.text
    assert "canary" not in caplog.text


async def test_life_is_counted_from_before_the_request(server, token_route, granted, clock):
    sent_at = clock.now()

    def slowly(_request):
        clock.time += timedelta(seconds=9)
        return granted(expires_in=300)

    token_route.side_effect = slowly
    assert (await refresh(server)).expires_at == sent_at + timedelta(seconds=300)


async def test_life_is_counted_from_the_attempt_that_succeeded(server, token_route, granted, clock):
    token_route.side_effect = [httpx.ConnectError("refused"), granted(expires_in=300)]
    expires_at = (await refresh(server)).expires_at
    assert expires_at == clock.now() + timedelta(seconds=300)


@pytest.mark.parametrize(
    "example",
    [
        (3600, 3600),
        ("3600", 3600),
        ("299.5", 299.5),
        (0, 0),
        (None, DEFAULT_LIFETIME),
        (-5, DEFAULT_LIFETIME),
        ("soon", DEFAULT_LIFETIME),
        ("", DEFAULT_LIFETIME),
        (True, DEFAULT_LIFETIME),
        ([300], DEFAULT_LIFETIME),
        ("NaN", DEFAULT_LIFETIME),
        ("Infinity", DEFAULT_LIFETIME),
        (10**400, DEFAULT_LIFETIME),
        (1e12, 366 * 24 * 3600),
    ],
    ids=lambda example: str(example[0])[:12],
)
async def test_expires_in_is_read_in_every_form_and_never_negative(
    server, token_route, granted, clock, example
):
    expires_in, lifetime = example
    token_route.return_value = granted(expires_in=expires_in)
    assert (await refresh(server)).expires_at == clock.now() + timedelta(seconds=lifetime)


async def test_patience_bounds_all_waiting(server, token_route, clock):
    token_route.return_value = httpx.Response(503, headers={"Retry-After": "20"})
    with pytest.raises(ServerUnavailableError) as caught:
        await refresh(server, patience=30)
    assert round(sum(clock.slept), 3) <= 30
    assert (caught.value.status, caught.value.retry_after) == (503, 20)


async def test_no_patience_means_one_attempt(server, token_route):
    token_route.side_effect = httpx.ConnectError("refused")
    with pytest.raises(ServerUnavailableError):
        await refresh(server, patience=0)
    assert token_route.call_count == 1


async def test_an_assertion_names_the_issuer_unless_told_otherwise(
    make_server, token_route, granted, sent, private_key
):
    token_route.return_value = granted()
    issuer = "https://auth.example.com"
    for fields, audience in [
        ({"issuer": issuer}, issuer),
        ({"issuer": issuer, "assertion_audience": "urn:sts"}, "urn:sts"),
    ]:
        await refresh(
            make_server(token_endpoint_auth_method="private_key_jwt", private_key_id="k1", **fields)
        )
        token = jwt.decode(dict(sent(token_route)[-1])["client_assertion"], private_key)
        assert token.claims["aud"] == audience
        assert token.header["kid"] == "k1"


async def test_a_refresh_whose_reply_was_lost_is_not_sent_again_later_while_prefect_is_away(
    server, token_route, monkeypatch
):
    async def unknown() -> None:
        if token_route.called:
            raise OwnershipUnknownError("Prefect does not answer")

    monkeypatch.setattr("blocks.ownership.require", unknown)
    token_route.side_effect = httpx.ReadError
    with pytest.raises(ReplyLostError):
        await refresh(server)
    assert token_route.call_count == 1
