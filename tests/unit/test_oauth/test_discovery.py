import asyncio
import logging
from datetime import timedelta
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr

from blocks import ownership
from blocks.lease import Lease
from blocks.oauth import DiscoveryFailedError, InsecureUrlError, ServerUnavailableError, discovery
from blocks.oauth.metadata import locations
from blocks.oauth.shared_fetch import SharedFetches
from blocks.ownership import Work

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


AWAY = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.Response(503),
    httpx.Response(429, headers={"Retry-After": "9"}),
    httpx.Response(404),
    httpx.Response(302, headers={"Location": "https://maintenance.example.com/"}),
    httpx.Response(200, text="<html>back soon</html>"),
]


@pytest.fixture
def metadata(wire):
    """Both places where metadata may be, answering alike."""
    routes = [wire.get(OAUTH_PATH), wire.get(OIDC_PATH)]

    def answer(reply):
        for route in routes:
            route.mock(side_effect=reply if callable(reply) else [reply] * 99)

    answer.count = lambda: sum(route.call_count for route in routes)
    answer(httpx.Response(200, json=DOCUMENT))
    return answer


@pytest.mark.parametrize("away", AWAY, ids=repr)
async def test_known_endpoints_outlast_an_issuer_that_is_away(
    refresh, metadata, clock, token_route, away
):
    await refresh()
    clock.time += timedelta(hours=23)
    metadata(away)
    await refresh()
    assert token_route.call_count == 2
    assert clock.slept == []


async def test_an_issuer_that_is_away_is_asked_again_after_a_minute_and_not_each_time(
    refresh, metadata, clock
):
    await refresh()
    clock.time += timedelta(hours=23)
    metadata(httpx.ConnectError("refused"))
    for _ in range(3):
        await refresh()
    assert metadata.count() == 2
    clock.time += timedelta(seconds=61)
    metadata(httpx.Response(200, json=DOCUMENT))
    await refresh()
    clock.time += timedelta(minutes=59)
    await refresh()
    assert metadata.count() == 3


async def test_an_outage_is_told_once(refresh, metadata, clock, caplog):
    logging.getLogger("blocks.oauth").setLevel(logging.WARNING)
    await refresh()
    for outage in (1, 2):
        metadata(httpx.ConnectError("refused"))
        for _ in range(3):
            clock.time += timedelta(hours=2)
            await refresh()
        assert caplog.text.count("what is known goes on") == outage
        metadata(httpx.Response(200, json=DOCUMENT))
        clock.time += timedelta(hours=2)
        await refresh()


async def test_another_issuer_s_metadata_is_not_used_later_either(
    refresh, metadata, clock, token_route
):
    await refresh()
    clock.time += timedelta(hours=23)
    metadata(httpx.Response(200, json={**DOCUMENT, "issuer": "https://evil.example.com"}))
    with pytest.raises(DiscoveryFailedError, match="names another issuer"):
        await refresh()
    assert token_route.call_count == 1


async def test_who_asks_at_the_same_time_shares_one_fetch(server, wire, token_route, granted):
    token_route.return_value = granted()
    route = wire.get(OAUTH_PATH)
    route.side_effect = slowly(httpx.Response(200, json=DOCUMENT))
    await asyncio.gather(*(server.refresh(SecretStr(f"stored-{n}")) for n in range(9)))
    assert (route.call_count, token_route.call_count) == (1, 9)


async def test_who_asks_at_the_same_time_shares_one_failure(server, wire):
    route = wire.get(OAUTH_PATH)
    route.side_effect = slowly(httpx.Response(404))
    wire.get(OIDC_PATH).respond(404)
    asked = [server.refresh(SecretStr(f"stored-{n}")) for n in range(9)]
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(error) for error in ended} == {DiscoveryFailedError}
    assert route.call_count == 1


async def test_one_who_goes_away_takes_nothing_from_the_others(server, wire, token_route, granted):
    token_route.return_value = granted()
    route = wire.get(OAUTH_PATH)
    route.side_effect = slowly(httpx.Response(200, json=DOCUMENT))
    first, second = (asyncio.create_task(server.refresh(SecretStr("stored"))) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert route.call_count == 1


async def test_where_the_fetch_is_ended_from_outside_everyone_is_told_and_the_next_begins_anew(
    server, metadata, token_route, granted
):
    token_route.return_value = granted()
    metadata(slowly(httpx.Response(200, json=DOCUMENT)))
    asked = [asyncio.create_task(server.refresh(SecretStr("stored"))) for _ in range(3)]
    await asyncio.sleep(0.001)
    [known] = discovery._fetches._loops.values()  # noqa: SLF001 - nobody else holds it
    known.under_way[ISSUER].cancel()
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(error) for error in ended} == {ServerUnavailableError}
    await server.refresh(SecretStr("stored"))
    assert token_route.call_count == 1


async def test_nobody_waits_long_for_an_issuer_that_hangs_where_its_endpoints_are_known(
    server, metadata, token_route, granted, monkeypatch
):
    monkeypatch.setattr(discovery, "WAITED_FOR", 0.01)
    monkeypatch.setattr(discovery, "KEPT_FOR", timedelta(0))
    token_route.return_value = granted()
    await server.refresh(SecretStr("stored"))
    asked, answer = [], asyncio.Event()

    async def hang(request):
        asked.append(request)
        await answer.wait()
        return httpx.Response(200, json=DOCUMENT)

    metadata(hang)
    async with asyncio.timeout(2):
        await server.refresh(SecretStr("stored"))
        await server.refresh(SecretStr("stored"))
    assert (token_route.call_count, len(asked)) == (3, 1)
    answer.set()
    await server.refresh(SecretStr("stored"))
    assert len(asked) == 1


def slowly(reply):
    async def answer(_request):
        await asyncio.sleep(0.02)
        return reply

    return answer


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


async def test_what_is_fetched_for_several_runs_is_no_ones_of_them() -> None:
    works: list[Work | None] = []

    async def fetch() -> None:
        works.append(ownership.current())

    lease = Lease("worker")
    with ownership.working(Work(lease, uuid4())):
        await SharedFetches[None]().get("issuer", fetch)

    assert works == [Work(lease)]
