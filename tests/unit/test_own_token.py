"""A caller's own token is found in what they ask for by its value, whatever it is called there."""

import asyncio
import json
import time
from base64 import b64encode, urlsafe_b64encode
from contextlib import suppress
from hashlib import shake_256
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from deployments import journeys
from deployments.own_token import TokenFinder, refuse_own_token
from flows.refusals import InvalidRequestError


def in_base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


HEADER = in_base64(b'{"alg":"RS256","typ":"JWT","kid":"2026"}')
PAYLOAD = in_base64(b'{"iss":"https://auth.example.com","sub":"canary","tenant_id":"acme"}')
SIGNATURE = in_base64(bytes(range(7, 207)))
JWT = f"{HEADER}.{PAYLOAD}.{SIGNATURE}"
OPAQUE = "st-Vq3+x0/9LmZk2p~Yc7_rB1dT5wNs8eGh"
TOKENS = pytest.mark.parametrize("token", [JWT, OPAQUE], ids=["JWT", "opaque"])

PLACES = {
    "an unknown field": lambda text: {"note": text},
    "a field named token": lambda text: {"token": text},
    "batchId": lambda text: {"batchId": text},
    "tenantId": lambda text: {"tenantId": text},
    "interval": lambda text: {"interval": text},
    "a cookie": lambda text: {"headers": {"Cookie": f"a=b; session={text}; c=d"}},
    "deep": lambda text: {"a": [{"b": [[["x", {"c": text}]]]}]},
    "the name of a member": lambda text: {text: 1},
    "the name of a deep member": lambda text: {"a": [{"b": {text: None}}]},
    "a longer text": lambda text: {"note": f"curl -H 'Authorization: Bearer {text}' https://a.b"},
    "JSON in a text": lambda text: {"note": json.dumps({"t": text})},
}
SPELLINGS = {
    "as it is": lambda token: token,
    "percent-encoded": lambda token: quote(token, safe=""),
    "every character percent-encoded": lambda token: "".join(f"%{ord(c):02x}" for c in token),
    "percent-encoded twice": lambda token: quote(quote(token, safe=""), safe=""),
    "in base64": lambda token: b64encode(token.encode()).decode(),
    "in basic credentials": lambda token: b64encode(f"u:{token}".encode()).decode(),
    "as a basic password": lambda token: in_base64(f"user:{token}:x".encode()),
    "over lines": lambda token: "\n".join(token[at : at + 7] for at in range(0, len(token), 7)),
    "its first half": lambda token: token[: len(token) // 2 + 1],
    "its second half": lambda token: token[len(token) // 2 :],
    "its two ends": lambda token: f"{token[:12]}...{token[-18:]}",
}


@TOKENS
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_the_token_is_refused_wherever_it_stands_and_not_shown(token, place, spelling):
    with pytest.raises(InvalidRequestError) as caught:
        refuse_own_token(place(spelling(token)), SecretStr(token))
    said = str(caught.value) + repr(caught.value.errors)
    assert "access token" in said
    assert not any(token[at : at + 8] in said for at in range(len(token) - 8))


@pytest.mark.parametrize("part", [PAYLOAD, SIGNATURE, SIGNATURE[20:40], PAYLOAD[-20:]])
def test_a_part_of_a_jwt_is_the_token_too(part):
    with pytest.raises(InvalidRequestError, match="note holds your access token"):
        refuse_own_token({"note": part}, JWT)


def test_what_every_jwt_of_the_issuer_has_in_common_is_not_the_token():
    refuse_own_token({"approval": f"{HEADER}.{in_base64(b'entirely other')}.{'q' * 64}"}, JWT)


def test_a_token_of_digits_is_found_as_a_number_as_well():
    with pytest.raises(InvalidRequestError, match="ticket"):
        refuse_own_token({"ticket": [1, 98765432109876543210]}, "98765432109876543210")


def test_a_token_of_a_trial_counts_where_it_stands_alone():
    for asked in ({"note": "banana bread"}, {"tenantId": "anna"}):
        refuse_own_token(asked, "ana")
    with pytest.raises(InvalidRequestError, match="tenantId"):
        refuse_own_token({"tenantId": " ana"}, "ana")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        10**5000,
        1.5,
        "",
        "ü ✓ \ud800",
        [[]],
        {"a": {}},
        {"a": float("nan")},
        b"x",
        {1: 2},
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_left_alone(value):
    refuse_own_token({"note": value, "tenantId": "acme", "batchId": "eod"}, OPAQUE)


def test_what_is_endlessly_deep_or_holds_itself_is_searched_all_the_same():
    deep: list = ["x"]
    for _ in range(100_000):
        deep = [deep]
    loop: dict = {}
    loop["self"] = [loop]
    refuse_own_token({"deep": deep, "loop": loop}, OPAQUE)


@given(st.text(max_size=300), st.from_regex("[A-Za-z0-9._~+/-]{8,99}=?", fullmatch=True))
def test_no_text_whatsoever_raises_and_the_token_in_it_is_always_found(text, token):
    TokenFinder(token).is_in(text)
    assert TokenFinder(token).is_in(token)


async def test_a_start_refuses_the_token_before_anything_is_asked_of_prefect():
    with pytest.raises(InvalidRequestError, match="interval holds your access token"):
        await asyncio.wait_for(journeys.start({"tenantId": "a", "interval": JWT}, JWT), 1)


LONG_JWT = f"{HEADER}.{in_base64(shake_256(b'canary').digest(2900))}.{SIGNATURE}"
BODIES = {
    "numbers": {"x": [1] * 30_000},
    "long numbers": {"x": [12345678901234567890] * 3000},
    "short texts": {"x": ["ab"] * 12_000},
    "names": {f"a-name-of-an-unknown-field-{at}": 1 for at in range(2000)},
    "one text": {"x": "x" * 64_000},
    "percent-encoded time and again": {"x": ["%25252541-and-so-on"] * 2500},
    "as much as may be kept": {"x": "%25252541" + "y-" * 2000},
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_the_largest_body_is_searched_for_a_long_token_in_no_time(body):
    seconds = []
    for _ in range(3):  # the best of three: the machine may be busy
        began = time.process_time()
        with suppress(InvalidRequestError):
            refuse_own_token(body, LONG_JWT)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.05


def test_more_than_is_searched_is_refused_and_the_token_behind_it_not_shown():
    with pytest.raises(InvalidRequestError) as caught:
        refuse_own_token({"note": "x" * 9000, JWT: JWT}, JWT)
    assert [str(error) for error in caught.value.errors] == [
        "request has more than 8192 characters"
    ]


def test_a_request_as_long_as_may_be_kept_is_searched_to_its_end():
    with pytest.raises(InvalidRequestError, match="note holds your access token"):
        refuse_own_token({"note": "x" * 4000 + SIGNATURE}, JWT)
