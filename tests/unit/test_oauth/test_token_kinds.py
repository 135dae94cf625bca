"""Only an access token is one: not what the same issuer signed for somebody else's eyes."""

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from blocks.oauth import CallerRefusedError, OAuthServer
from tests.unit.test_oauth.conftest import BASE
from tests.unit.test_oauth.test_callers import by_asking, by_keys, jwks, signed

__all__ = ["by_asking", "by_keys", "jwks", "signed"]  # fixtures

OTHER_TYPES = [
    "logout+jwt",
    "application/logout+jwt",
    "LOGOUT+JWT",
    "secevent+jwt",
    "dpop+jwt",
    "token-introspection+jwt",
    "oauth-authz-req+jwt",
    "id+jwt",
    "refresh+jwt",
    "entity-statement+jwt",
    "JOSE",
]
OTHER_CLAIMS = {
    "an ID token, by its nonce": {"nonce": "n-0S6_WzA2Mj"},
    "an ID token, by its at_hash": {"at_hash": "77QmUPtjPfzWtF2AnpK9RQ"},
    "an ID token, by its c_hash": {"c_hash": "LDktKdoQak3Pk0cnXxCltA"},
    "an ID token of Keycloak": {"typ": "ID"},
    "an ID token of Cognito": {"token_use": "id"},
    "a refresh token of Keycloak": {"typ": "Refresh"},
    "an offline token of Keycloak": {"typ": "Offline"},
    "a logout token of Keycloak": {"typ": "Logout", "sid": "1"},
    "a logout token": {
        "sid": "08a5019c",
        "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
    },
    "a refresh token of Cognito": {"token_use": "refresh"},
    "what says twice that it is something": {"typ": "Bearer", "token_use": "id"},
}
ACCESS_TOKENS = {
    "with the header of RFC 9068": ("at+jwt", {}),
    "with the media type in full": ("application/at+jwt", {}),
    "with the header in capitals": ("AT+JWT", {}),
    "with a header that says nothing": (None, {}),
    "with the header JWT": ("JWT", {"sid": "1", "auth_time": 1, "acr": "1", "scope": "openid"}),
    "of Keycloak": ("JWT", {"typ": "Bearer", "sid": "1", "azp": "shop"}),
    "of an older Keycloak": ("JWT", {"typ": "Bearer", "nonce": "of the login", "acr": "1"}),
    "of Cognito": (None, {"token_use": "access", "client_id": "shop"}),
    "of Microsoft Entra": ("JWT", {"ver": "2.0", "azp": "shop", "scp": "orders", "uti": "x"}),
    "with a claim of another meaning": ("JWT", {"typ": "customer", "token_type": 7}),
}


def header(typ):
    said = {"alg": "RS256", "kid": "one"}
    return said if typ is None else {**said, "typ": typ}


@pytest.mark.parametrize("typ", OTHER_TYPES)
async def test_what_names_itself_another_kind_is_refused(by_keys, jwks, signed, typ):
    with pytest.raises(CallerRefusedError, match="no access token"):
        await by_keys.verify_caller(signed(header=header(typ)))


@pytest.mark.parametrize("claims", OTHER_CLAIMS.values(), ids=OTHER_CLAIMS.keys())
@pytest.mark.parametrize("typ", [None, "JWT"])
async def test_what_is_recognisably_another_kind_is_refused(by_keys, jwks, signed, claims, typ):
    with pytest.raises(CallerRefusedError, match="no access token"):
        await by_keys.verify_caller(signed(header=header(typ), **claims))


@pytest.mark.parametrize(("typ", "claims"), ACCESS_TOKENS.values(), ids=ACCESS_TOKENS.keys())
async def test_an_access_token_of_any_server_is_accepted(by_keys, jwks, signed, typ, claims):
    caller = await by_keys.verify_caller(signed(header=header(typ), **claims))
    assert caller.may_act_for("acme")


@pytest.mark.parametrize(
    ("typ", "is_accepted"),
    [("at+jwt", True), ("application/at+jwt", True), ("JWT", False), (None, False)],
)
async def test_rfc_9068_to_the_letter_is_a_setting(make_server, jwks, signed, typ, is_accepted):
    server = make_server(
        issuer=BASE,
        jwks_uri=f"{BASE}/jwks",
        caller_verification="jwks",
        tenant_claim="tenant_id",
        caller_at_jwt_only=True,
    )
    token = signed(header=header(typ), typ="Bearer")
    if is_accepted:
        assert (await server.verify_caller(token)).may_act_for("acme")
        return
    with pytest.raises(CallerRefusedError, match="at\\+jwt"):
        await server.verify_caller(token)


def test_that_setting_is_refused_where_it_would_do_nothing():
    with pytest.raises(ValidationError, match="caller_at_jwt_only needs"):
        OAuthServer(issuer=BASE, client_id="c", client_secret="s", caller_at_jwt_only=True)


@pytest.mark.parametrize(
    "said",
    [
        *OTHER_CLAIMS.values(),
        {"token_type": "refresh_token"},
        {"token_type": "Refresh"},
        {"token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
        {"token_type": "urn:ietf:params:oauth:token-type:id_token"},
        {"token_type": "N_A"},
        {"token_use": "refresh_token"},
    ],
    ids=str,
)
async def test_what_the_server_tells_to_be_another_kind_is_refused(by_asking, wire, said):
    answer = {"active": True, "tenant_id": "acme", "aud": "journeys", **said}
    wire.post("/introspect").mock(return_value=httpx.Response(200, json=answer))
    with pytest.raises(CallerRefusedError, match="no access token"):
        await by_asking.verify_caller(SecretStr("canary-caller"))


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"token_type": "Bearer"},
        {"token_type": "DPoP"},
        {"token_use": "access_token"},
        {"typ": "Bearer", "nonce": "x"},
    ],
    ids=str,
)
async def test_what_the_server_tells_to_be_an_access_token_is_one(by_asking, wire, said):
    wire.post("/introspect").respond(
        json={"active": True, "tenant_id": "acme", "aud": "journeys", **said}
    )
    assert (await by_asking.verify_caller(SecretStr("canary"))).may_act_for("acme")
