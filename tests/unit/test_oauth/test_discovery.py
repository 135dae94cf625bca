import logging
from datetime import timedelta

import httpx
import pytest
from pydantic import SecretStr

from blocks.oauth import DiscoveryFailedError, InsecureUrlError, ServerUnavailableError
from blocks.oauth.discovery import locations

ISSUER = "https://auth.example.com/realms/orders"
OAUTH_PATH = "/.well-known/oauth-authorization-server/realms/orders"
OIDC_PATH = "/realms/orders/.well-known/openid-configuration"
DOCUMENT = {
    "issuer": ISSUER,
    "token_endpoint": "https://auth.example.com/token",
    "revocation_endpoint": "https://auth.example.com/revoke",
    "grant_types_supported": ["urn:ietf:params:oauth:grant-type:token-exchange"],
}


@pytest.fixture
def server(make_server):
    return make_server(issuer=ISSUER, token_endpoint=None, revocation_endpoint=None)


@pytest.fixture
def refresh(server, token_route, granted):
    token_route.return_value = granted()
    return lambda: server.refresh(SecretStr("stored"))


@pytest.mark.parametrize(
    ("issuer", "paths"),
    [
        (ISSUER, (OAUTH_PATH, OIDC_PATH)),
        (f"{ISSUER}/", (OAUTH_PATH, OIDC_PATH)),
        (f"{ISSUER}%2Feu", (f"{OAUTH_PATH}%2Feu", "/realms/orders%2Feu" + OIDC_PATH[14:])),
        (
            "https://auth.example.com",
            ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"),
        ),
        (
            "https://auth.example.com/",
            ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"),
        ),
    ],
)
def test_the_well_known_path_goes_between_host_and_path_or_after_it(issuer, paths):
    assert locations(issuer) == tuple(f"https://auth.example.com{path}" for path in paths)


async def test_finds_the_endpoints_of_an_issuer_with_a_path(server, refresh, wire, token_route):
    wire.get(OAUTH_PATH).respond(json=DOCUMENT)
    revocation = wire.post("/revoke").respond(200)
    await refresh()
    await server.revoke(SecretStr("stored"))
    assert token_route.called
    assert revocation.called


@pytest.mark.parametrize(
    "no_metadata",
    [
        httpx.Response(404),
        httpx.Response(302, headers={"Location": "/login"}),
        httpx.Response(200, text="<html>welcome</html>"),
        httpx.Response(200, json={"hello": "there"}),
        httpx.Response(403, json={"error": "access_denied"}),
    ],
    ids=lambda reply: str(reply.status_code),
)
async def test_falls_back_to_openid_connect_s_place(refresh, wire, token_route, no_metadata):
    wire.get(OAUTH_PATH).return_value = no_metadata
    wire.get(OIDC_PATH).respond(json=DOCUMENT)
    await refresh()
    assert token_route.called


@pytest.mark.parametrize(
    "document",
    [
        {**DOCUMENT, "issuer": f"{ISSUER}/"},
        {**DOCUMENT, "issuer": "https://evil.example.com"},
        {**DOCUMENT, "issuer": None},
        {"issuer": ISSUER},
    ],
)
async def test_another_issuer_s_metadata_is_not_used(refresh, wire, token_route, document):
    wire.get(OAUTH_PATH).respond(json=document)
    with pytest.raises(DiscoveryFailedError, match="set "):
        await refresh()
    assert not token_route.called


async def test_no_metadata_at_all_names_both_ways_out(refresh, wire):
    wire.get(OAUTH_PATH).respond(404)
    wire.get(OIDC_PATH).respond(404)
    with pytest.raises(DiscoveryFailedError, match="check issuer, or set token_endpoint"):
        await refresh()


async def test_an_issuer_that_cannot_be_asked_is_only_unavailable(refresh, wire):
    wire.get(OAUTH_PATH).side_effect = httpx.ConnectError("refused")
    with pytest.raises(ServerUnavailableError, match="discovery"):
        await refresh()


@pytest.mark.parametrize("url", ["http://auth.example.com/token", "https://[::1", "/token", ""])
async def test_metadata_cannot_lead_a_secret_to_plain_http(refresh, wire, url):
    wire.get(OAUTH_PATH).respond(json={**DOCUMENT, "token_endpoint": url})
    with pytest.raises(InsecureUrlError, match="refresh"):
        await refresh()


async def test_metadata_is_asked_for_once_an_hour(refresh, wire, clock):
    metadata = wire.get(OAUTH_PATH).respond(json=DOCUMENT)
    await refresh()
    clock.time += timedelta(minutes=59)
    await refresh()
    assert metadata.call_count == 1
    clock.time += timedelta(minutes=2)
    await refresh()
    assert metadata.call_count == 2


async def test_a_server_that_hides_token_exchange_is_warned_about_and_used(
    refresh, wire, token_route, caplog
):
    wire.get(OAUTH_PATH).respond(json={**DOCUMENT, "grant_types_supported": ["refresh_token"]})
    with caplog.at_level(logging.WARNING):
        await refresh()
    assert token_route.called
    assert "does not list token exchange" in caplog.text


async def test_configured_endpoints_win_over_discovered_ones(make_server, wire):
    wire.get(OAUTH_PATH).respond(json=DOCUMENT)
    own = wire.post("/own-revoke").respond(200)
    server = make_server(
        issuer=ISSUER,
        token_endpoint=None,
        revocation_endpoint="https://auth.example.com/own-revoke",
    )
    await server.revoke(SecretStr("stored"))
    assert own.called
