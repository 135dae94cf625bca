"""What a process manager, a browser without a network and a stranger ask of the Journeys API."""

import asyncio
import re

import httpx
import pytest
from prefect.exceptions import PrefectHTTPStatusError

from blocks.oauth import OAuthServer
from blocks.prefect_refusal import CREDENTIALS, FORBIDDEN, UNREADABLE, why_prefect_refuses
from deployments.http_api import probes
from deployments.http_api.app import create_app
from deployments.http_api.refusals import PREFECT_AWAY

BLOCK = "/api/block_types/slug/oauth-server/block_documents/name/orders-batch"


def answered(status: int, path: str = BLOCK) -> PrefectHTTPStatusError:
    """What Prefect's client raises of such an answer."""
    request = httpx.Request("GET", f"http://prefect.invalid{path}")
    response = httpx.Response(status, request=request, json={"exception_message": "Unauthorized"})
    return PrefectHTTPStatusError.from_httpx_error(
        httpx.HTTPStatusError("refused", request=request, response=response)
    )


class Prefect:
    """Counts how often it is asked, and answers each time with the same error."""

    def __init__(self, error: Exception) -> None:
        self.asked = 0
        self.error = error

    async def __call__(self) -> OAuthServer:
        """Where the OAuth Server block comes from."""
        self.asked += 1
        await asyncio.sleep(0.05)
        raise self.error

    def client(self) -> httpx.AsyncClient:
        """A client of the API that stands on this Prefect."""
        app = httpx.ASGITransport(create_app(self), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=app, base_url="http://127.0.0.1")


async def test_a_hundred_who_ask_whether_it_is_ready_make_prefect_answer_once() -> None:
    prefect = Prefect(httpx.ConnectError("away"))
    async with prefect.client() as client:
        answers = await asyncio.gather(*(client.get("/readyz") for _ in range(100)))
    assert {it.status_code for it in answers} == {503}
    assert prefect.asked == 1


async def test_whether_it_is_ready_is_asked_again_after_some_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probes, "KEPT_SECONDS", 0.1)
    prefect = Prefect(httpx.ConnectError("away"))
    async with prefect.client() as client:
        for _ in range(2):
            await client.get("/readyz")
            await asyncio.sleep(0.2)
    assert prefect.asked == 2


@pytest.mark.parametrize(
    ("error", "sentence"),
    [(answered(401), CREDENTIALS), (answered(403), FORBIDDEN), (answered(500), UNREADABLE)],
)
async def test_what_prefect_refuses_for_good_is_told_as_that_and_not_as_being_away(
    error: Exception, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Prefect(error).client() as client:
        answer = await client.get("/readyz")
        called = await client.get(
            "/api/v1/journeys/00000000-0000-0000-0000-000000000000",
            headers={"Authorization": "Bearer token"},
        )
    for it in (answer, called):
        assert it.status_code == 503
        assert it.json()["detail"] == sentence
        assert "Retry-After" not in it.headers
    assert sentence in caplog.text


@pytest.mark.parametrize(
    "error", [answered(503), answered(500, "/api/flow_runs/"), httpx.ReadTimeout("slow")]
)
async def test_what_may_pass_by_itself_is_told_as_being_away(error: Exception) -> None:
    assert why_prefect_refuses(error) is None
    async with Prefect(error).client() as client:
        answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["detail"] == PREFECT_AWAY
    assert answer.headers["Retry-After"]


def test_what_was_raised_because_of_a_refusal_tells_it_as_well() -> None:
    wrapped = RuntimeError("the grant cannot be read")
    wrapped.__cause__ = answered(401)
    assert why_prefect_refuses(wrapped) == CREDENTIALS


async def test_the_documentation_page_needs_nothing_from_elsewhere() -> None:
    async with Prefect(httpx.ConnectError("away")).client() as client:
        page = await client.get("/docs")
        wanted = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        answers = [await client.get(url) for url in wanted]
    assert len(wanted) == 3
    assert all(url.startswith("/") for url in wanted)
    assert [it.status_code for it in answers] == [200, 200, 200]
    assert "://" not in re.sub(r"window\.location\.\w+", "", page.text)
