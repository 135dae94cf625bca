"""After any run, no secret can be found anywhere but in Prefect's encrypted block documents.

One installation lives through a success and every kind of failure, tenant by tenant, with all
programs logging at DEBUG and every result persisted that may be. Then all that it left behind is
searched for every token that the sandbox gave out and every credential that it was shown. Canaries
that are planted on purpose, one in each place, show that the search would find them.
"""

import asyncio
import base64
import json
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from secrets import token_urlsafe
from typing import Any
from urllib.parse import quote_plus, urlsplit
from uuid import UUID

import httpx
import pytest
from joserfc.jwk import ECKey
from prefect import flow, get_run_logger
from prefect.artifacts import acreate_table_artifact
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableCreate
from prefect.events import emit_event
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    temporary_settings,
)
from prefect.states import Cancelled, Failed
from pydantic import SecretStr

from blocks import caller_token, clock, secret_blocks, systems
from blocks import context as contexts
from blocks import grant as grants
from blocks.binding import Binding
from blocks.grant import Grant, document
from blocks.oauth import GrantLostError, OAuthServer
from blocks.orders import OrdersApi
from deployments import journeys
from deployments.demo import create_work_pool
from deployments.sandbox.client import SandboxClient
from deployments.sandbox.serving import running_sandbox
from deployments.sandbox.settings import SandboxSettings
from deployments.sandbox.shapes import Fault
from deployments.stack import Stack, stack
from flows.admission import InvalidRequestError
from flows.configure import configure
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.daily_close import daily_close
from tests.secrets.leaks import (
    Leak,
    ProcessWatch,
    api_of,
    everything_logged,
    files_of,
    log_everything,
    search,
    told_by,
)

BATCH = "eod"
LEAD = timedelta(seconds=20)
"""From asking for a configuration to its night: long enough on a busy machine."""

LOUD = {
    "PREFECT_DEBUG_MODE": "true",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "DEBUG",
    "PREFECT_LOGGING_LEVEL": "DEBUG",
    "PREFECT_SERVER_LOGGING_LEVEL": "DEBUG",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
    "BATCH_CLOSE_SWEEP_SECONDS": "2",
}

QUOTING = {
    "ok": False,
    "error": "access_denied",
    "error_description": "{half} or {token}: {authorization}",
    "message": "{half} or {token}: {authorization}",
    "detail": {"message": "{token}", "reason": "{authorization}"},
}
"""What a careless server answers: it repeats what it was sent."""


def canary() -> str:
    """Something that looks like a token."""
    return f"at-{token_urlsafe(24)}"


TOKEN = canary()
CLIENT_SECRET = f"""a {TOKEN} %+:&'"é\\/="""  # what breaks naive encodings


def quoting(endpoint: str, status: int, *, count: int = 1, **body: object) -> Fault:
    """A reply with this status that quotes the secrets of the request in its body and headers."""
    headers = {
        "Location": "http://elsewhere.invalid/?{token}",
        "WWW-Authenticate": 'Bearer error="invalid_token", error_description="{token}"',
    }
    body = QUOTING | body
    return Fault(
        endpoint=endpoint, kind="echo", status=status, count=count, body=body, headers=headers
    )


def spoilt(endpoint: str, kind: str, *, count: int = 1) -> Fault:
    """A reply that is spoilt after the work was done, so that tokens are in it."""
    return Fault(endpoint=endpoint, kind=kind, count=count)


@dataclass(frozen=True)
class Course:
    """What one tenant meets, and where that ends."""

    tenant: str
    faults: Sequence[Fault]
    ends: str
    """How the night ends (LastBatch.status), or UNCONFIGURED where there will be none."""
    because: str = ""


COURSES = [
    Course("good", [], "CLOSED"),
    Course("by-command-line", [], "CLOSED"),
    Course(
        "bumpy",  # and configured twice
        [
            spoilt("token.exchange", "reset_after"),
            spoilt("token.refresh", "no_refresh_token"),
            quoting("revoke", 400, count=2),
        ],
        "CLOSED",
    ),
    Course("exchange-refused", [quoting("token.exchange", 400)], "UNCONFIGURED", "access_denied"),
    Course(
        "client-refused",
        [quoting("token.exchange", 401, error="invalid_client")],
        "UNCONFIGURED",
        "refuses this client",
    ),
    Course("exchange-redirected", [quoting("token.exchange", 307)], "UNCONFIGURED", "redirect"),
    Course(
        "exchange-without-refresh-token",
        [spoilt("token.exchange", "no_refresh_token")],
        "UNCONFIGURED",
        "no refresh token",
    ),
    Course(
        "exchange-truncated",
        [spoilt("token.exchange", "truncated")],
        "UNCONFIGURED",
        "cannot be used",
    ),
    Course(
        "exchange-lost",
        [
            quoting("token.exchange", 500),
            spoilt("token.exchange", "huge"),
            spoilt("token.exchange", "cut_body"),
        ],
        "UNCONFIGURED",
        "no usable reply",
    ),
    Course("refresh-refused", [quoting("token.refresh", 400)], "FAILED", "the grant is lost"),
    Course(
        "refresh-lost",
        [
            spoilt("token.refresh", "truncated"),
            spoilt("token.refresh", "huge"),
            quoting("token.refresh", 503),
        ],
        "FAILED",
        "no usable reply",
    ),
    Course(
        "orders-401",
        [
            quoting("orders.close", 401),
            quoting("orders.close", 409, error="request_in_progress"),
            quoting("orders.close", 401),
        ],
        "FAILED",
        "401",
    ),
    Course(
        "orders-403",
        [quoting("orders.close", 500), quoting("orders.close", 403)],
        "FAILED",
        "403",
    ),
    Course(
        "orders-422",
        [
            quoting("orders.prepareSnapshot", 401),
            quoting("orders.prepareSnapshot", 503),
            quoting("orders.prepareSnapshot", 422),
        ],
        "FAILED",
        "422",
    ),
    Course("orders-307", [quoting("orders.close", 307)], "FAILED", "307"),
    Course("orders-not-ok", [quoting("orders.close", 200)], "FAILED", "not ok"),
]


@dataclass
class Stage:
    """The installation with what it went through."""

    installation: Stack
    sandbox: SandboxClient
    credentials: list[str]
    ends: dict[str, tuple[str, str]] = field(default_factory=dict)
    told: dict[str, bytes] = field(default_factory=dict)
    """What errors told, and the logs of this process."""
    planted: dict[str, str] = field(default_factory=dict)
    """Canaries by the place in which the search must find them."""
    worker_log: bytes = b""
    replaced: list[SecretStr] = field(default_factory=list)
    """Refresh tokens that a configuration replaced whose worker was killed."""
    callers_left: list[str] = field(default_factory=list)
    """The blocks of callers' tokens that are left."""
    leaks: list[Leak] = field(default_factory=list)
    """All that the search found, canaries included."""

    @property
    def secrets(self) -> list[str]:
        """Everything that must not be found."""
        return [*self.sandbox.secrets(), *self.credentials]


@pytest.fixture(scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """All that happens; the tests look at what it left behind."""
    home = tmp_path_factory.mktemp("secrets")
    (home / "tmp").mkdir()
    key = ECKey.generate_key("P-256")
    settings = SandboxSettings(client_secret=CLIENT_SECRET, client_public_jwk=key.as_dict(False))
    log_everything(home / "logging.yml")
    here = {PREFECT_HOME: home, PREFECT_RESULTS_PERSIST_BY_DEFAULT: True}
    watch = ProcessWatch()
    watch.start()
    with (
        running_sandbox(settings) as sandbox_url,
        SandboxClient(sandbox_url) as sandbox,
        stack(home, TMPDIR=str(home / "tmp"), **LOUD) as installation,
    ):
        installation.start_server()
        with (
            temporary_settings({PREFECT_API_URL: installation.api_url, **here}),
            everything_logged() as log,
        ):
            credentials = [CLIENT_SECRET, TOKEN, str(key.as_dict(True)["d"])]
            stage = Stage(installation, sandbox, credentials)
            server = OAuthServer(
                issuer=sandbox_url, client_id=settings.client_id, client_secret=CLIENT_SECRET
            )
            await _live(stage, server, key)
            await _plant(stage)
            await asyncio.sleep(2)  # for the logs and events that Prefect sends in the background
            stage.told["log of this process"] = log.getvalue().encode()
        watch.end()
        places = files_of(installation) | api_of(installation) | watch.seen() | stage.told
        stage.worker_log = places["file worker.log"]
        stage.leaks = search(places, [*stage.secrets, *stage.planted.values()])
        yield stage


async def _live(stage: Stage, server: OAuthServer, key: ECKey) -> None:
    """Configure every tenant, then let every night happen."""
    installation = stage.installation
    await create_work_pool()
    await server.asave(systems.DOCUMENT)
    await OrdersApi(base_url=server.issuer, max_attempts=2).asave(systems.DOCUMENT)
    await asyncio.to_thread(installation.run, "prefect", "--no-prompt", "deploy", "--all")
    for course in COURSES:
        for fault in course.faults:
            stage.sandbox.fault(**fault.model_dump() | {"tenant_id": course.tenant})
    await _kill_and_cancel(stage)
    await _configure(stage)
    # The nights authenticate with signed assertions, the configurations did with the secret.
    signing = {"token_endpoint_auth_method": "private_key_jwt", "signing_algorithm": "ES256"}
    private_key = SecretStr(json.dumps(key.as_dict(private=True)))
    await server.model_copy(update=signing | {"private_key": private_key}).asave(
        systems.DOCUMENT, overwrite=True
    )
    await _ask_for_too_much(stage)
    await _let_prefect_refuse(stage)
    await _nights(stage)
    stage.callers_left = await _callers_left()


async def _kill_and_cancel(stage: Stage) -> None:
    """A worker dies between a grant and the one that it replaces; journeys are cancelled, deleted.

    And an API dies between the hand-over of a token and the creation of its run.
    """
    worker, tenant = stage.installation.start_worker(), "replaced"
    await _configure_one(stage, Course(tenant, [], "UNCONFIGURED"))
    binding = Binding(tenant, BATCH)
    stage.replaced.append((await grants.load(binding)).refresh_token)
    stage.sandbox.fault("revoke", "reset_before", tenant_id=tenant, count=3)
    journey = await _start(stage, tenant)
    async with asyncio.timeout(60):
        while (await grants.load(binding)).refresh_token == stage.replaced[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    worker.kill()
    async with get_client() as client:
        await client.set_flow_run_state(await _start(stage, "cancelled"), Cancelled(), force=True)
        await client.delete_flow_run(await _start(stage, "deleted"))
    await caller_token.hand_over(SecretStr(stage.sandbox.subject_token("unbegun")))
    stage.installation.start_worker()
    async with asyncio.timeout(120):
        while (await journeys.status(journey)).phase == "Running":  # noqa: ASYNC110
            await asyncio.sleep(0.5)


async def _start(stage: Stage, tenant: str) -> UUID:
    request = _request(tenant, clock.now() + timedelta(hours=1))
    return await journeys.start(request, stage.sandbox.subject_token(tenant))


async def _callers_left() -> list[str]:
    """The callers' tokens that are still stored when a worker has had the time to delete them."""
    async with asyncio.timeout(caller_token.TAKEN_WITHIN.total_seconds() + 30):
        while left := await secret_blocks.find_all(caller_token.PREFIX):
            await asyncio.sleep(2)
            if all(clock.now() - it.updated > timedelta(minutes=3) for it in left):
                break
    return [it.name for it in left]


async def _configure(stage: Stage) -> None:
    await _configure_by_command_line(stage, "by-command-line")
    # One after the other: writers that meet on SQLite wait for each other in ever longer pauses.
    for course in COURSES:
        if course.tenant != "by-command-line":
            await _configure_one(stage, course)


async def _configure_one(stage: Stage, course: Course) -> None:
    tenant = course.tenant
    leads = [timedelta(hours=1) if course.ends == "UNCONFIGURED" else LEAD]
    try:
        for lead in leads * 2 if tenant == "bumpy" else leads:
            token = stage.sandbox.subject_token(tenant)
            await journeys.configure_batch(_request(tenant, clock.now() + lead), token)
    except journeys.JourneyFailedError as error:
        stage.ends[tenant] = ("UNCONFIGURED", str(error))
        stage.told[f"error of {tenant}"] = told_by(error)


async def _configure_by_command_line(stage: Stage, tenant: str) -> None:
    """Hand the token over on standard input and start the flow, as the README says."""
    run = partial(asyncio.to_thread, stage.installation.run)
    token = stage.sandbox.subject_token(tenant)
    await run("-m", "deployments.hand_over", "my-token", stdin=f"{token}\n")
    parameters = {
        "tenant_id": tenant,
        "batch_id": BATCH,
        "first_run_at": (clock.now() + 2 * LEAD).isoformat(timespec="seconds"),
        "interval": "PT1H",
        "max_runs": 1,
        "upstream_wait_duration": "PT1S",
        "replication_delay_duration": "PT1S",
        "access_token_block": "caller-my-token",
    }
    command = ("prefect", "deployment", "run", journeys.DEPLOYMENT)
    await run(*command, "--params", json.dumps(parameters))


async def _nights(stage: Stage) -> None:
    """Wait until every configured tenant's night has ended; note how."""
    to_come = [course.tenant for course in COURSES if course.tenant not in stage.ends]
    async with asyncio.timeout(120):
        for tenant in to_come:
            stage.ends[tenant] = await _end_of(tenant)


async def _end_of(tenant: str) -> tuple[str, str]:
    while True:
        if last := (await contexts.load(Binding(tenant, BATCH))).last_batch:
            return last.status, last.reason or ""
        await asyncio.sleep(1)


def _request(tenant: str, first_run_at: datetime) -> dict[str, Any]:
    return {
        "tenantId": tenant,
        "batchId": BATCH,
        "firstRunAt": first_run_at.isoformat(timespec="seconds"),
        "interval": "PT1H",
        "maxRuns": 1,
        "upstreamWaitDuration": "PT5S" if tenant == "good" else "PT1S",
        "replicationDelayDuration": "PT1S",
    }


async def _ask_for_too_much(stage: Stage) -> None:
    """Put tokens where none belong; on the command line it would be the user's own doing."""
    token = stage.sandbox.subject_token("talkative")
    request = _request("talkative", clock.now() + timedelta(hours=1))
    for name in ("accessToken", "subject_token", "Authorization", "clientSecret"):
        with pytest.raises(InvalidRequestError) as caught:
            await journeys.start(request | {"kept": [{name: token}]}, token)
        stage.told[f"error of {name}"] = told_by(caught.value)


async def _let_prefect_refuse(stage: Stage) -> None:
    """Prefect's API refuses every block that holds a token, quoting what it was sent."""
    token, binding = stage.sandbox.subject_token("refused"), Binding("refused", BATCH)
    block = await caller_token.hand_over(SecretStr(token))
    server = await systems.oauth_server()
    tokens = await server.exchange(SecretStr(token), tenant_id="refused")
    await grants.store(binding, Grant.from_exchange(tokens))
    await Secret(value=json.dumps({"refresh": canary_of(stage)})).asave(
        f"grant-{Binding('odd', BATCH).slug}"
    )
    began = clock.now() - timedelta(minutes=1)
    request = DailyOrdersBatchCloseConfigRequest.model_validate(_request("refused", began))
    with _blocks_refused():
        state = await configure(
            tenant_id="refused",
            batch_id=f"{BATCH}-2",
            first_run_at=(clock.now() + timedelta(hours=1)).isoformat(timespec="seconds"),
            interval="PT1H",
            max_runs=1,
            access_token_block=block,
            return_state=True,
        )
        stage.ends["configure"] = (state.name, state.message)
        state = await daily_close("refused", BATCH, request, return_state=True)
        stage.ends["daily-close"] = (state.name, state.message)
        for name, refused in {
            "hand_over": caller_token.hand_over(SecretStr(token)),
            "store": grants.store(binding, Grant.from_exchange(tokens)),
            "load": grants.load(Binding("odd", BATCH)),
        }.items():
            with pytest.raises(Exception) as caught:  # noqa: PT011
                await refused
            stage.told[f"error of {name}"] = told_by(caught.value)


def canary_of(stage: Stage) -> str:
    """A new secret that must not be found."""
    stage.credentials.append(canary())
    return stage.credentials[-1]


@contextmanager
def _blocks_refused() -> Iterator[None]:
    send = httpx.AsyncClient.send

    async def refuse(
        client: httpx.AsyncClient, request: httpx.Request, **options: Any
    ) -> httpx.Response:
        path = urlsplit(str(request.url)).path
        is_read = path.endswith("/filter") or request.method not in {"POST", "PATCH"}
        if "/block_documents/" not in path or is_read:
            return await send(client, request, **options)
        body = json.loads(request.content)
        quoted = {"exception_message": "Invalid request received.", "request_body": body}
        return httpx.Response(422, json=quoted, request=request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx.AsyncClient, "send", refuse)
        patch.setattr(document, "STORE_PAUSES", (0.1, 0.1))
        yield


async def _plant(stage: Stage) -> None:
    """Leave a canary in each of the places."""
    planted, installation = stage.planted, stage.installation

    def plant(place: str) -> str:
        planted[place] = canary()
        return planted[place]

    @flow(persist_result=True)
    async def careless(**parameter: str) -> object:
        logger = get_run_logger()
        logger.debug("Got %s", plant("API logs"))
        emit_event(event="careless", resource={"prefect.resource.id": plant("API events")})
        await acreate_table_artifact(table=[{"token": plant("API artifacts")}], key="careless")
        return {"token": SecretStr(plant("file storage/"))}

    @flow
    async def failing() -> object:
        return Failed(message=plant("API states"))

    await careless(token=plant("API flow_runs"))
    await failing(return_state=True)
    async with get_client() as client:
        await client.create_variable(VariableCreate(name="careless", value=plant("API variables")))
        await client.request("GET", "/health", params={"token": plant("file server.log")})
    careless_url = f"https://orders.example/{plant('API block_documents')}"
    await OrdersApi(base_url=careless_url).asave("careless")
    (installation.home / "tmp" / "careless").write_text(plant("file tmp/"))
    planted["database"] = planted["API variables"]
    planted["file prefect.db"] = planted["API logs"]
    program = [sys.executable, "-c", "import time; time.sleep(1)", plant("process cmdline")]
    await asyncio.to_thread(
        subprocess.run, program, env={"TOKEN": plant("process environ")}, check=True
    )
    error = RuntimeError("All is well")
    error.__context__ = ValueError(plant("error"))
    error.__suppress_context__ = True
    stage.told["error on purpose"] = told_by(error)


def test_no_secret_is_found_anywhere(stage: Stage) -> None:
    kinds = {secret[:3] for secret in stage.secrets}
    assert {"at-", "rt-", "st-", "eyJ"} <= kinds, "not every kind of secret has been in use"
    canaries = set(stage.planted.values())
    leaks = [leak for leak in stage.leaks if leak.secret not in canaries]
    # One of each is enough to see what leaks; there may be thousands.
    assert not leaks, "\n\n".join(map(str, {leak.place: leak for leak in leaks}.values()))


@pytest.mark.parametrize("course", COURSES, ids=lambda course: course.tenant)
def test_every_tenant_meets_what_was_in_store(stage: Stage, course: Course) -> None:
    status, reason = stage.ends[course.tenant]
    assert (status, course.because in reason) == (course.ends, True), reason
    played = [event.fault for event in stage.sandbox.events() if event.tenant_id == course.tenant]
    assert played.count("echo") == sum(f.count for f in course.faults if f.kind == "echo")
    assert {fault.kind for fault in course.faults} <= set(played)


def test_no_run_succeeds_whose_tokens_prefect_does_not_store(stage: Stage) -> None:
    assert "Completed" not in {stage.ends["configure"][0], stage.ends["daily-close"][0]}


def test_no_callers_token_is_left_after_kills_cancellations_and_deletions(stage: Stage) -> None:
    assert not stage.callers_left


async def test_no_grant_lives_that_a_configuration_replaced_whose_worker_was_killed(
    stage: Stage,
) -> None:
    with temporary_settings({PREFECT_API_URL: stage.installation.api_url}):
        server = await systems.oauth_server()
        assert not (await grants.load(Binding("replaced", BATCH))).to_revoke
        for token in stage.replaced:
            with pytest.raises(GrantLostError):
                await server.refresh(token)


def test_libraries_logged_all_they_could(stage: Stage) -> None:
    for library in (b"httpcore.http11", b"asyncio", b"prefect._internal", b"websockets.client"):
        assert b"DEBUG" in stage.worker_log[: stage.worker_log.index(library)].splitlines()[-1]


def spelt(spell: Callable[[str], str]) -> bytes:
    return f"before {spell(CLIENT_SECRET)} after".encode()


@pytest.mark.parametrize(
    "text",
    [
        spelt(str),
        spelt(lambda secret: json.dumps({"nested": json.dumps(secret)})),
        spelt(ascii),
        spelt(quote_plus),
        spelt(lambda secret: base64.b64encode(f"ab{secret}cd".encode()).decode()),
        json.dumps(base64.encodebytes(pickle.dumps(["x" * 50, CLIENT_SECRET])).decode()).encode(),
        f"Bearer {TOKEN[:17]}...".encode(),
        f"... {TOKEN[-15:]}".encode(),
    ],
)
def test_a_secret_is_recognised_however_it_is_spelt(text: bytes) -> None:
    assert search({"here": text}, [CLIENT_SECRET, TOKEN])
    assert not search({"here": text}, [canary(), "some % other + secret"])


@pytest.mark.parametrize(
    "place",
    [
        "API artifacts",
        "API block_documents",
        "API events",
        "API flow_runs",
        "API logs",
        "API states",
        "API variables",
        "database",
        "error",
        "file prefect.db",
        "file server.log",
        "file storage/",
        "file tmp/",
        "process cmdline",
        "process environ",
    ],
)
def test_a_secret_left_on_purpose_is_found(stage: Stage, place: str) -> None:
    places = [leak.place for leak in stage.leaks if leak.secret == stage.planted[place]]
    assert any(found.startswith(place) for found in places)
