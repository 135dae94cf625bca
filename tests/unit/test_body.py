"""What a request's body may be, before anybody looks at its fields."""

from typing import Any

import pytest
from starlette.requests import Request

from deployments.http_api.body import json_object
from deployments.http_api.problems import ProblemError
from flows.refusals import InvalidRequestError


def request(body: str) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body.encode(), "more_body": False}

    headers = [(b"content-type", b"application/json")]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


@pytest.mark.parametrize("body", ['{"a": 1, "a": 2}', '{"note": [{"b": {}, "\\u0062": {}}]}'])
async def test_a_member_that_is_given_twice_is_refused_without_repeating_it(body: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"^request has a member twice; give each once$"):
        await json_object(request(body))


@pytest.mark.parametrize("levels", [5_000, 30_000])
async def test_a_body_that_is_nested_beyond_all_reason_is_refused(levels: int) -> None:
    with pytest.raises(InvalidRequestError, match=r"^request is nested too deeply$"):
        await json_object(request('{"a": ' + "[" * levels + "]" * levels + "}"))


async def test_integers_and_text_come_as_they_were_sent() -> None:
    body = '{"big": 18446744073709551616, "empty": "", "more": [{"a": 1}, {"a": 2}]}'
    assert await json_object(request(body)) == {
        "big": 2**64,
        "empty": "",
        "more": [{"a": 1}, {"a": 2}],
    }


@pytest.mark.parametrize("body", ["", "[]", '{"a": 1', f'{{"a": {"1" * 5000}}}'])
async def test_what_is_no_json_object_is_refused(body: str) -> None:
    with pytest.raises(ProblemError, match="not a JSON object"):
        await json_object(request(body))
