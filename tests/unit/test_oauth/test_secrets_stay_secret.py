"""Whatever goes wrong, nothing of what is said about it contains a token or a credential."""

import copy
import traceback
from base64 import b64encode
from urllib.parse import parse_qsl, quote_plus

import httpx
import pytest

from blocks.oauth import OAuthError
from blocks.quoting import quotable

METHODS = ["client_secret_basic", "client_secret_post", "private_key_jwt"]


def echo(request):
    """A server that quotes everything it was told, in the worst places."""
    told = request.content.decode() + str(request.headers.get("Authorization"))
    return httpx.Response(400, json={"error": "invalid_grant", "error_description": told})


def echo_as_code(request):
    return httpx.Response(400, json={"error": request.content.decode(), "error_description": 7})


def echo_token_as_code(request):
    tokens = [value for _, value in parse_qsl(request.content.decode()) if "canary" in value]
    return httpx.Response(400, json={"error": tokens[0]})


def quote_in_protocol_error(request):
    raise httpx.LocalProtocolError(f"Illegal header value {request.headers!r}", request=request)


TROUBLES = {
    "echo": echo,
    "echo as code": echo_as_code,
    "echo token as code": echo_token_as_code,
    "protocol error": quote_in_protocol_error,
    "unreachable": httpx.ConnectError("refused"),
    "lost": httpx.ReadError("gone"),
    "redirect": httpx.Response(307, headers={"Location": "https://x.example/?canary"}),
    "nonsense": httpx.Response(200, text='{"access_token": "canary-cut-off'),
    "not for us": httpx.Response(404, text="canary"),
    "broken": httpx.Response(500, text="canary"),
    "client": httpx.Response(401, json={"error": "invalid_client"}),
    "no refresh token": httpx.Response(200, json={"access_token": "canary-x", "error": "canary X"}),
}


def everything_said(error):
    """All that a log, a traceback or an error tracker would print of an error and its chain."""
    if error is None:
        return ""
    said = "".join(traceback.format_exception(error)) + str(error) + repr(error) + repr(vars(error))
    return said + everything_said(error.__cause__) + everything_said(error.__context__)


@pytest.fixture(params=TROUBLES.values(), ids=TROUBLES.keys())
def route(request, wire, operation):
    route = wire.post(operation.path)
    if isinstance(request.param, httpx.Response):
        route.return_value = request.param
    else:
        route.side_effect = request.param
    return route


async def error_of(operation, server):
    try:
        await operation.run(server)
    except OAuthError as error:
        return error
    return None  # a revocation, for one, does not care what the body of a success says


@pytest.mark.parametrize("method", METHODS)
async def test_no_error_says_a_secret(operation, make_server, route, method):
    server = make_server(token_endpoint_auth_method=method)
    said = everything_said(await error_of(operation, server))
    assert "canary" not in said
    for request, _ in route.calls:
        form = dict(parse_qsl(request.content.decode()))
        assert form.get("client_assertion", "-none-") not in said
        assert request.headers.get("Authorization", "-none-").split()[-1] not in said


async def test_no_error_is_chained_to_the_http_library_s(operation, server, route):
    error = await error_of(operation, server)
    assert route.called
    assert not isinstance(getattr(error, "__cause__", None), httpx.HTTPError)
    assert not isinstance(getattr(error, "__context__", None), httpx.HTTPError)


def test_errors_survive_the_journey_between_processes():
    error = OAuthError("It failed.", code="invalid_grant", status=400)
    rebuilt = copy.copy(error)  # by the same protocol as pickle
    assert (str(rebuilt), rebuilt.code, rebuilt.status) == ("It failed.", "invalid_grant", 400)


SECRET = "s3cret/with+and=and more"


@pytest.mark.parametrize(
    "spelling",
    [SECRET, quote_plus(SECRET), f'"{SECRET}"', SECRET[:14] + "...", SECRET.replace(" ", "\n")],
)
def test_a_secret_is_hidden_however_it_is_spelled(spelling):
    quoted = quotable(f"The token {spelling} is not valid.", [SECRET])
    assert "s3cret" not in quoted
    assert quoted.endswith("is not valid.")


def test_a_quotation_is_one_short_printable_line():
    assert quotable("late\r\nTue\x00 \x1b[31mred é") == "late Tue [31mred"
    assert len(quotable("x y " * 1000)) == 200
    assert quotable({"not": "text"}) == ""
    assert quotable(None) == ""


def test_a_credential_pair_is_hidden_too():
    pair = b64encode(b"batch:secret").decode()
    assert pair not in quotable(f"Basic {pair} refused", [pair])
