"""An OAuth server at the wire, a clock that never waits, and one description per operation."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import httpx
import pytest
import respx
from joserfc.jwk import RSAKey
from pydantic import SecretStr

from blocks.oauth import (
    ExchangeRefusedError,
    GrantLostError,
    OAuthServer,
    RevocationRefusedError,
    discovery,
    introspection,
    keys,
)
from blocks.oauth.call import Clock

BASE = "https://auth.example.com"
SUBJECT_TOKEN = "canary-subject-token"
REFRESH_TOKEN = "canary-refresh-token"
CLIENT_SECRET = "canary:secret+with %&"


class FakeClock:
    """Time that passes only where somebody sleeps, at once."""

    def __init__(self):
        self.time = datetime(2026, 11, 23, 22, tzinfo=UTC)
        self.slept = []

    def now(self):
        """The moment that it is."""
        return self.time

    async def sleep(self, seconds):
        """Let time pass and remember for how long."""
        self.slept.append(seconds)
        self.time += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Operation:
    """One of the block's three operations, called on a server and answered at a route."""

    name: str
    path: str
    run: Callable
    success: dict
    form: list
    refused: type[Exception]


GRANTED = {
    "access_token": "canary-new-access",
    "refresh_token": "canary-new-refresh",
    "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    "token_type": "Bearer",
    "expires_in": 300,
}

OPERATIONS = [
    Operation(
        "exchange",
        "/token",
        lambda server: server.exchange(SecretStr(SUBJECT_TOKEN), tenant_id="acme"),
        GRANTED,
        [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", SUBJECT_TOKEN),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("audience", "orders-batch"),
        ],
        ExchangeRefusedError,
    ),
    Operation(
        "refresh",
        "/token",
        lambda server: server.refresh(SecretStr(REFRESH_TOKEN)),
        GRANTED,
        [("grant_type", "refresh_token"), ("refresh_token", REFRESH_TOKEN)],
        GrantLostError,
    ),
    Operation(
        "revoke",
        "/revoke",
        lambda server: server.revoke(SecretStr(REFRESH_TOKEN)),
        {},
        [("token", REFRESH_TOKEN), ("token_type_hint", "refresh_token")],
        RevocationRefusedError,
    ),
]


@pytest.fixture(params=OPERATIONS, ids=lambda operation: operation.name)
def operation(request):
    return request.param


@pytest.fixture(scope="session")
def private_key():
    return RSAKey.generate_key(2048)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make_server(clock, private_key):
    """Build a block; whatever is not said is as simple as can be."""

    def make(**fields):
        fields = {
            "token_endpoint": f"{BASE}/token",
            "revocation_endpoint": f"{BASE}/revoke",
            "client_id": "batch",
            "client_secret": CLIENT_SECRET,
            "private_key": json.dumps(private_key.as_dict(private=True)),
            **fields,
        }
        server = OAuthServer(**fields)
        server._clock = Clock(now=clock.now, sleep=clock.sleep)  # noqa: SLF001 - the seam for this
        return server

    return make


@pytest.fixture
def server(make_server):
    return make_server()


@pytest.fixture
def wire():
    with respx.mock(base_url=BASE, assert_all_called=False) as router:
        yield router


@pytest.fixture
def token_route(wire):
    return wire.post("/token")


@pytest.fixture
def sent():
    """The forms that a route received, in order."""

    def forms(route):
        return [parse_qsl(call.request.content.decode()) for call in route.calls]

    return forms


@pytest.fixture
def granted():
    """A successful token reply; members set to None are left out."""

    def reply(status=200, **members):
        body = {**GRANTED, **members}
        return httpx.Response(status, json={k: v for k, v in body.items() if v is not None})

    return reply


@pytest.fixture(autouse=True)
def nothing_in_memory():
    """What a new process begins with."""
    for remembers in (discovery, keys):
        remembers._known.clear()  # noqa: SLF001
        remembers._fetches.forget()  # noqa: SLF001
    introspection._endpoints.clear()  # noqa: SLF001
