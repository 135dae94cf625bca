"""The Journeys API as its clients see it, on a real Prefect API and the sandbox's tokens."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.flow_engine import run_flow_async
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Running
from pydantic import SecretStr

from blocks import deployment, systems
from blocks.binding import Binding
from blocks.oauth import introspection
from deployments.http_api import probes
from deployments.http_api.app import create_app
from deployments.http_api.board import FRESH
from deployments.sandbox.client import SandboxClient
from flows.configure import configure
from tests.flows.batch import Batch, is_alive

JOURNEYS = "/api/v1/journeys"
START = f"{JOURNEYS}/daily-orders-batch-close/start"
BATCHES = f"{JOURNEYS}/daily-orders-batch-close/batches"


class Client:
    """A client of the API with one tenant's token."""

    def __init__(self, http: httpx.AsyncClient, sandbox: SandboxClient, tenant_id: str) -> None:
        self.http = http
        self.tenant_id = tenant_id
        self.token = sandbox.subject_token(tenant_id)

    def wanted(self, **changed: Any) -> dict[str, Any]:
        """A request for three nights from tomorrow on."""
        tomorrow = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        return {
            "tenantId": self.tenant_id,
            "batchId": "eod",
            "firstRunAt": tomorrow.isoformat(),
            "interval": "P1D",
            "maxRuns": 3,
            **changed,
        }

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request with the tenant's token."""
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        return await self.http.request(method, path, headers=headers, **options)

    async def start(self, *, key: str | None = None, **changed: Any) -> httpx.Response:
        """Ask for a journey."""
        headers = {"Idempotency-Key": key} if key else {}
        return await self.call("POST", START, json=self.wanted(**changed), headers=headers)

    async def started(self, **changed: Any) -> UUID:
        """The id of a journey that was started."""
        answer = await self.start(**changed)
        assert answer.status_code == 202, answer.text
        return UUID(answer.json()["journeyId"])

    async def configured(self, **changed: Any) -> UUID:
        """A journey that a worker has done."""
        journey_id = await self.started(**changed)
        await run(journey_id)
        return journey_id

    async def status(self, journey_id: UUID, **options: Any) -> httpx.Response:
        """Ask how far it has come."""
        return await self.call("GET", f"{JOURNEYS}/{journey_id}", **options)

    async def result(self, journey_id: UUID) -> httpx.Response:
        """Ask how it ended."""
        return await self.call("GET", f"{JOURNEYS}/{journey_id}/result")


async def run(journey_id: UUID) -> FlowRun:
    """What a worker does with a journey."""
    async with get_client() as client:
        found = await client.read_flow_run(journey_id)
        await run_flow_async(
            configure, flow_run=found, parameters=found.parameters, return_type="state"
        )
        return await client.read_flow_run(journey_id)


async def caller_blocks() -> set[str]:
    async with get_client() as client:
        documents = await client.read_block_documents(limit=200)
    return {it.name for it in documents if it.name and it.name.startswith("caller-")}


@pytest.fixture(scope="package")
async def configure_deployed(prefect_api: None) -> None:
    found = await configure.ato_deployment("daily-orders-batch-close", tags=["daily-orders"])
    await found.aapply()


@pytest.fixture
async def http(configure_deployed: None) -> AsyncIterator[httpx.AsyncClient]:
    introspection._endpoints.clear()  # noqa: SLF001  (what a new process begins with)
    app = httpx.ASGITransport(create_app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=app, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def clients(http: httpx.AsyncClient, sandbox: SandboxClient) -> Callable[..., Client]:
    return lambda tenant_id=None: Client(http, sandbox, tenant_id or f"tenant-{uuid4().hex[:8]}")


@pytest.fixture
def client(clients: Callable[..., Client]) -> Client:
    return clients()


def fields_at_fault(answer: httpx.Response) -> list[str]:
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    return [error["field"] for error in answer.json().get("errors", [])]


async def test_a_journey_goes_as_the_seeds_step_table_says(client: Client) -> None:
    started = await client.start(costCentre="4711")
    assert started.status_code == 202
    journey_id = UUID(started.json()["journeyId"])
    assert started.json()["journeyName"] == "daily-orders-batch-close"
    assert started.json()["statusUrl"] == started.headers["Location"] == f"{JOURNEYS}/{journey_id}"
    assert started.json()["_links"]["result"] == {"href": f"{JOURNEYS}/{journey_id}/result"}

    running = await client.call("GET", started.headers["Location"])
    assert running.status_code == 200
    assert running.json()["phase"] == "Running"
    assert running.json()["currentState"] == "exchangeInitialToken"
    assert running.json()["attributes"] == {"tenantId": client.tenant_id, "batchId": "eod"}
    assert (await client.result(journey_id)).status_code == 409

    await run(journey_id)
    await asyncio.sleep(FRESH)
    await client.status(journey_id)
    done = await client.status(journey_id, headers={"Prefer": "wait=10"})
    assert done.json()["phase"] == "Succeeded"
    assert done.json()["currentState"] == "completeConfigured"
    assert done.headers["Preference-Applied"] == "wait=10"
    outcome = await client.result(journey_id)
    assert outcome.status_code == 200
    assert outcome.json()["phase"] == "Succeeded"
    wanted = client.wanted()
    assert (
        outcome.json()["output"].items()
        >= {
            "status": "SCHEDULED",
            **{name: wanted[name] for name in ("tenantId", "batchId", "interval", "maxRuns")},
        }.items()
    )


async def test_a_journey_that_fails_says_why(client: Client, sandbox: SandboxClient) -> None:
    journey_id = await client.started()
    sandbox.fault("token.exchange", "status", status=400, body={"error": "invalid_target"})
    await run(journey_id)

    failed = (await client.result(journey_id)).json()
    assert failed["phase"] == "Failed"
    assert failed["error"]["code"] == "FAILED"
    assert "invalid_target" in failed["error"]["reason"]
    assert "output" not in failed
    assert (await client.status(journey_id)).json()["phase"] == "Failed"


async def test_a_cancelled_journey_says_so(client: Client) -> None:
    journey_id = await client.started()
    async with get_client() as prefect:
        await prefect.set_flow_run_state(journey_id, Cancelled(), force=True)
    assert (await client.result(journey_id)).json()["error"]["code"] == "CANCELLED"


async def test_long_polling_answers_as_soon_as_the_journey_ends(client: Client) -> None:
    journey_id = await client.started()
    waiting = asyncio.create_task(client.status(journey_id, headers={"Prefer": "wait=30"}))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await run(journey_id)
    answer = await asyncio.wait_for(waiting, 10)
    assert answer.json()["phase"] == "Succeeded"


async def test_long_polling_ends_after_the_time_that_was_asked_for(client: Client) -> None:
    journey_id = await client.started()
    answer = await client.status(journey_id, headers={"Prefer": "respond-async, wait=1"})
    assert answer.json()["phase"] == "Running"
    assert answer.headers["Preference-Applied"] == "wait=1"


async def test_the_same_key_starts_one_journey_and_leaves_one_token(client: Client) -> None:
    before = await caller_blocks()
    wanted = client.wanted()
    starts = await asyncio.gather(*(client.start(key='"a key"', **wanted) for _ in range(3)))
    assert [start.status_code for start in starts] == [202] * 3
    assert len({start.json()["journeyId"] for start in starts}) == 1
    assert len(await caller_blocks() - before) == 1

    await run(UUID(starts[0].json()["journeyId"]))
    again = await client.start(key="a key", **wanted)
    assert again.json()["journeyId"] == starts[0].json()["journeyId"]
    assert await caller_blocks() == before


async def test_a_repeated_start_is_answered_even_after_the_first_night_has_come(
    client: Client, settable_clock: Any
) -> None:
    wanted = client.wanted()
    journey_id = await client.started(key="k", **wanted)
    settable_clock.move_to(datetime.now(UTC) + timedelta(days=2))
    assert await client.started(key="k", **wanted) == journey_id
    assert fields_at_fault(await client.start(key="other", **wanted)) == ["firstRunAt"]


async def test_the_same_key_for_another_request_is_refused(client: Client) -> None:
    await client.started(key="k")
    answer = await client.start(key="k", maxRuns=4)
    assert answer.status_code == 422
    assert fields_at_fault(answer) == ["Idempotency-Key"]


async def test_the_keys_of_two_tenants_are_apart(clients: Callable[..., Client]) -> None:
    assert await clients().started(key="k") != await clients().started(key="k")


@pytest.mark.parametrize("key", ['"not closed', "x" * 256, "é".encode(), '""'])
async def test_a_key_that_cannot_be_read_is_refused(client: Client, key: Any) -> None:
    answer = await client.start(key=key)
    assert answer.status_code == 400
    assert fields_at_fault(answer) == ["Idempotency-Key"]


async def test_every_field_at_fault_is_named(client: Client) -> None:
    answer = await client.start(interval="daily", maxRuns=0, batchId=7)
    assert answer.status_code == 422
    assert sorted(fields_at_fault(answer)) == ["batchId", "interval", "maxRuns"]
    assert {error["pointer"] for error in answer.json()["errors"]} == {
        "#/batchId",
        "#/interval",
        "#/maxRuns",
    }


async def test_a_token_in_the_wrong_place_is_not_quoted_back(client: Client) -> None:
    for misplaced in (client.token, f"Bearer {client.token}", client.token[:20]):
        answer = await client.start(interval=misplaced)
        assert answer.status_code == 422
        assert misplaced not in answer.text
        assert client.token[:12] not in answer.text


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {"Content-Type": "application/json"}, 400),
        (b"[]", {"Content-Type": "application/json"}, 400),
        (b"\xff", {"Content-Type": "application/json"}, 400),
        (b"[" * 50_000, {"Content-Type": "application/json"}, 422),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {}, 415),
        (b"{}", {"Content-Type": "application/json; charset=utf-8"}, 422),
        (b" " * 65_537, {"Content-Type": "application/json"}, 413),
    ],
)
async def test_a_body_that_is_none_is_refused(
    client: Client, content: bytes, headers: dict[str, str], status: int
) -> None:
    answer = await client.call("POST", START, content=content, headers=headers)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == status


async def test_a_body_without_a_length_is_bounded_too(client: Client) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 1024

    headers = {"Content-Type": "application/json"}
    answer = await client.call("POST", START, content=endless(), headers=headers)
    assert answer.status_code == 413


async def test_without_a_good_token_nothing_is_answered(
    http: httpx.AsyncClient, client: Client
) -> None:
    journey_id = await client.started()
    for method, path in (
        ("POST", START),
        ("GET", f"{JOURNEYS}/{journey_id}"),
        ("GET", f"{JOURNEYS}/{journey_id}/result"),
        ("GET", f"{BATCHES}/a/b"),
        ("DELETE", f"{BATCHES}/a/b"),
    ):
        for authorization, challenge in (
            (None, 'Bearer realm="journeys"'),
            ("Basic YTpi", 'Bearer realm="journeys"'),
            ("Bearer st-unknown", 'Bearer realm="journeys", error="invalid_token"'),
            ("Bearer two tokens", 'Bearer realm="journeys", error="invalid_token"'),
        ):
            headers = {"Authorization": authorization} if authorization else {}
            answer = await http.request(method, path, headers=headers)
            assert answer.status_code == 401, (method, path, authorization)
            assert answer.headers["WWW-Authenticate"] == challenge
            assert answer.headers["Content-Type"] == "application/problem+json"


async def test_what_there_is_not_and_what_one_may_not_see_look_alike(
    client: Client, clients: Callable[..., Client], batch: Batch
) -> None:
    await batch.configure()
    of_another_flow = (await batch.night(1)).id
    of_another_tenant = await clients().started()
    answers = [
        await ask(it)
        for it in (uuid4(), of_another_flow, of_another_tenant)
        for ask in (client.status, client.result)
    ]
    answers.append(await client.call("GET", f"{JOURNEYS}/no-id"))
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1


async def test_two_tenants_cannot_reach_each_other(
    client: Client, clients: Callable[..., Client]
) -> None:
    one, other = client, clients()
    ours, theirs = await one.configured(), await other.configured()

    for who, journey_id in ((one, theirs), (other, ours)):
        assert (await who.status(journey_id)).status_code == 404
        assert (await who.result(journey_id)).status_code == 404
    for who, whose in ((one, other), (other, one)):
        before = await deployment.find(Binding(whose.tenant_id, "eod"))
        refused = await who.start(tenantId=whose.tenant_id, maxRuns=9)
        assert refused.status_code == 403
        assert fields_at_fault(refused) == ["tenantId"]
        also = await who.start(tenantId=who.tenant_id, tenant_id=whose.tenant_id)
        assert also.status_code == 422
        path = f"{BATCHES}/{whose.tenant_id}/eod"
        for method in ("GET", "DELETE"):
            answer = await who.call(method, path)
            nothing = await who.call(method, f"{BATCHES}/nobody/eod")
            assert (answer.status_code, answer.text) == (404, nothing.text)
        assert await deployment.find(Binding(whose.tenant_id, "eod")) == before


@pytest.mark.parametrize("suffix", ["", "/a", "ü ✓", "%2F", "?x=1#y", ";a=b", "+&="])
async def test_a_batch_is_found_under_any_name(clients: Callable[..., Client], suffix: str) -> None:
    client = clients(f"t-{uuid4().hex[:8]}{suffix}")
    journey_id = await client.configured(batchId=f"eod{suffix}")
    link = (await client.status(journey_id)).json()["_links"]["batch"]["href"]
    answer = await client.call("GET", link)
    assert answer.status_code == 200, answer.text
    assert answer.json()["tenantId"] == client.tenant_id
    assert answer.json()["batchId"] == f"eod{suffix}"


async def test_a_batch_shows_its_schedule_and_its_nights(
    batch: Batch, clients: Callable[..., Client]
) -> None:
    client = clients(batch.binding.tenant_id)
    await batch.configure_past(max_runs=2)
    await batch.run_night(1)

    shown = (await client.call("GET", f"{BATCHES}/{client.tenant_id}/eod")).json()
    assert shown["schedule"]["interval"] == "P1D"
    assert shown["schedule"]["active"] is True
    assert (shown["runsDone"], shown["maxRuns"]) == (1, 2)
    assert shown["lastBatch"]["status"] == "CLOSED"
    assert [night["run"] for night in shown["history"]] == [1]
    assert datetime.fromisoformat(shown["nextOccurrence"]) > datetime.now(UTC)


async def test_an_ended_batch_is_gone_with_its_grant_and_its_waiting_night(
    batch: Batch, clients: Callable[..., Client]
) -> None:
    client = clients(batch.binding.tenant_id)
    await batch.configure_past(upstream_wait_duration="PT2H")
    waiting = await batch.run_night(1)
    assert waiting.state_name == "WaitForUpstream"
    grant = await batch.grant()
    assert grant

    path = f"{BATCHES}/{client.tenant_id}/eod"
    assert (await client.call("DELETE", path)).status_code == 204
    assert (await client.call("GET", path)).status_code == 404
    assert (await client.call("DELETE", path)).status_code == 404
    assert not await batch.is_configured()
    assert not await is_alive(grant.refresh_token)
    async with get_client() as prefect:
        left = await prefect.read_flow_run(waiting.id)
    assert left.state_type is StateType.CANCELLED
    assert batch.closes() == []


async def test_a_night_that_is_running_when_its_batch_is_ended_does_not_close(
    batch: Batch, clients: Callable[..., Client]
) -> None:
    client = clients(batch.binding.tenant_id)
    await batch.configure_past()
    running = await batch.night(1)
    async with get_client() as prefect:
        await prefect.set_flow_run_state(running.id, Running(), force=True)
    answer = await client.call("DELETE", f"{BATCHES}/{client.tenant_id}/eod")
    assert answer.status_code == 204
    left = await batch.wake(running)
    assert left.state_name == "Skipped"
    assert batch.closes() == []


async def test_with_prefect_away_nothing_is_half_started(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey_id = await client.started()
    before = await caller_blocks()
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        for answer in (await client.start(), await client.status(uuid4())):
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "5"
            assert answer.headers["Content-Type"] == "application/problem+json"
        # Read a moment ago, so there is an answer all the same.
        assert (await client.http.get("/healthz")).status_code == 200
        assert (await client.http.get("/readyz")).status_code == 503
    assert await caller_blocks() == before
    monkeypatch.setattr(probes, "KEPT_SECONDS", 0)
    assert (await client.http.get("/readyz")).status_code == 200
    assert (await client.status(journey_id)).status_code == 200


async def test_with_the_oauth_server_away_callers_are_told_to_come_again(
    client: Client, sandbox: SandboxClient
) -> None:
    sandbox.fault("introspect", "status", status=503, count=5)
    answer = await client.status(uuid4())
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


async def test_an_unknown_path_or_method_is_a_problem_too(client: Client) -> None:
    nowhere = await client.call("GET", "/api/v1/nothing")
    assert nowhere.status_code == 404
    assert nowhere.headers["Content-Type"] == "application/problem+json"
    wrong = await client.call("PUT", START)
    assert wrong.status_code == 405
    assert wrong.headers["Allow"] == "POST"
    assert (await client.call("PUT", f"{BATCHES}/a/b")).headers["Allow"] == "DELETE, GET"


async def test_the_token_that_was_handed_over_is_the_callers(client: Client) -> None:
    journey_id = await client.started()
    async with get_client() as prefect:
        parameters = (await prefect.read_flow_run(journey_id)).parameters
    assert client.token not in str(parameters)
    secret = await Secret.aload(parameters["access_token_block"])
    assert secret.get()["access_token"] == SecretStr(client.token).get_secret_value()


async def test_readiness_asks_prefect_and_believes_no_memory_of_the_blocks(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systems, "KEPT_SECONDS", 30)
    monkeypatch.setattr(probes, "KEPT_SECONDS", 0)
    assert (await client.http.get("/readyz")).status_code == 200

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert (await client.http.get("/readyz")).status_code == 503
