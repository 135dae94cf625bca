"""Starting a journey while Prefect or this process fails: one journey, and it has its token."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun

from blocks import caller_token, secret_blocks
from deployments import journeys as starting
from deployments.http_api.app import create_app
from deployments.unneeded_tokens import delete_unneeded
from tests.flows.journeys import Journeys

START = "/api/v1/journeys/daily-orders-batch-close/start"
KEY = "the-same"


@pytest.fixture
async def http(configure_deployed: None) -> AsyncIterator[httpx.AsyncClient]:
    app = httpx.ASGITransport(create_app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=app, base_url="http://127.0.0.1") as client:
        yield client


async def runs_of(journeys: Journeys) -> list[FlowRun]:
    async with get_client() as client:
        of_flow = FlowFilter(name=FlowFilterName(any_=["configure"]))
        runs = await client.read_flow_runs(flow_filter=of_flow)
    tenant = journeys.batch.binding.tenant_id
    return [run for run in runs if run.parameters.get("tenant_id") == tenant]


async def has_token(run: FlowRun) -> bool:
    return await secret_blocks.find(run.parameters["access_token_block"]) is not None


def answered_too_late(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Prefect makes the run, and nobody hears of it."""
    make = starting.arun_deployment

    async def unheard(*args: Any, **options: Any) -> FlowRun:
        await make(*args, **options)
        raise error

    monkeypatch.setattr(starting, "arun_deployment", unheard)


@pytest.mark.parametrize("error", [TimeoutError(), httpx.ReadTimeout(""), httpx.ConnectError("")])
async def test_after_a_time_out_behind_its_creation_the_same_key_gets_the_living_journey(
    journeys: Journeys, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with monkeypatch.context() as late:
        answered_too_late(late, error)
        with pytest.raises(type(error)):
            await journeys.start(key=KEY)
    (run,) = await runs_of(journeys)
    assert await has_token(run)

    again = await journeys.start(key=KEY)

    assert again.id == run.id
    assert (await journeys.work(again)).state_name == "Completed"


async def test_a_503_behind_a_runs_creation_does_not_say_that_nothing_was_done(
    journeys: Journeys, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = journeys.batch.sandbox.subject_token(journeys.batch.binding.tenant_id)
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": KEY}
    request = journeys.wanted()
    with monkeypatch.context() as late:
        answered_too_late(late, httpx.ReadTimeout(""))
        answer = await http.post(START, json=request, headers=headers)

    assert answer.status_code == 503
    assert "nothing was done" not in answer.text
    assert "the same Idempotency-Key" in answer.text

    again = await http.post(START, json=request, headers=headers)
    assert again.status_code == 202
    assert again.json()["journeyId"] == str((await runs_of(journeys))[0].id)


async def test_a_start_that_prefect_surely_refused_leaves_no_token(
    journeys: Journeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await secret_blocks.find_all(caller_token.PREFIX)

    async def refused(*_: object, **__: object) -> FlowRun:
        request = httpx.Request("POST", "http://prefect.invalid")
        answer = httpx.Response(422, request=request)
        raise httpx.HTTPStatusError("", request=request, response=answer)

    monkeypatch.setattr(starting, "arun_deployment", refused)
    with pytest.raises(httpx.HTTPStatusError):
        await journeys.start()

    assert await secret_blocks.find_all(caller_token.PREFIX) == before


async def test_a_token_of_a_run_that_was_never_made_is_deleted_by_a_worker(
    journeys: Journeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await secret_blocks.find_all(caller_token.PREFIX)

    async def away(*_: object, **__: object) -> FlowRun:
        raise httpx.ConnectError("away")

    monkeypatch.setattr(starting, "arun_deployment", away)
    with pytest.raises(httpx.ConnectError):
        await journeys.start()
    journeys.batch.clock.ahead = caller_token.TAKEN_WITHIN + timedelta(seconds=5)

    async with get_client() as client:
        await delete_unneeded(client)

    assert {*await secret_blocks.find_all(caller_token.PREFIX)} <= {*before}


async def test_a_journey_that_never_had_its_token_is_not_answered_for_ever_under_its_key(
    journeys: Journeys,
) -> None:
    lost = await journeys.start(key=KEY)
    await caller_token.discard(lost.parameters["access_token_block"])
    assert (await journeys.work(lost)).state_name == caller_token.MISSING

    again = await journeys.start(key=KEY)

    assert again.id != lost.id
    assert (await journeys.start(key=KEY)).id == again.id
    assert (await journeys.work(again)).state_name == "Completed"
    assert (await journeys.start(key=KEY)).id == again.id


async def test_a_run_is_made_within_the_time_for_which_its_token_is_kept() -> None:
    assert starting.BEGUN_WITHIN < caller_token.TAKEN_WITHIN
