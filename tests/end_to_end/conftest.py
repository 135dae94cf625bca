"""A whole installation: a real Prefect server, real workers and the sandbox, each a process."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from blocks import deployment
from deployments.demo import create_work_pool, save_blocks
from deployments.sandbox.client import SandboxClient
from deployments.stack import Part, Stack, stack
from tests.end_to_end.nights import Nights

LEASE_SECONDS = 12
"""Of every process: long enough for a busy machine, and short enough to be waited for."""

SETTINGS = {
    "BATCH_CLOSE_LEASE_SECONDS": str(LEASE_SECONDS),
    # A run becomes Late after this, instead of after 15 seconds: tests look at late runs.
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "3",
    # Nothing here has automations, and SQLite is locked less often without their bookkeeping.
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    # Its access log, in which is counted what it is asked.
    "PREFECT_SERVER_LOGGING_LEVEL": "INFO",
    # Events are counted where they are stored, and the last ones are by default 5 seconds later.
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    # A worker's look for tokens that nobody needs is no part of what is counted.
    "BATCH_CLOSE_SWEEP_SECONDS": "600",
}


@pytest.fixture(scope="package")
def nights_of_seconds() -> Iterator[None]:
    """They must be asked for, here and in every process that is started from here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCH_CLOSE_SHORTEST_INTERVAL", "PT5S")
        yield


@pytest.fixture(scope="package")
async def installation(
    tmp_path_factory: pytest.TempPathFactory, nights_of_seconds: None
) -> AsyncIterator[Stack]:
    """Server and sandbox, deployed and with the blocks saved; workers are each test's own."""
    with stack(tmp_path_factory.mktemp("installation"), **SETTINGS) as running:
        running.start_sandbox()
        running.start_server()
        here = {PREFECT_API_URL: running.api_url, PREFECT_LOGGING_TO_API_ENABLED: False}
        with temporary_settings(here):
            await create_work_pool()
            await save_blocks(running.sandbox_url)
            running.run("prefect", "--no-prompt", "deploy", "--all")
            yield running
            # What this process has yet to report keeps it from exiting once the server is gone.
            await EventsWorker.drain_all()


@pytest.fixture
def start_worker(installation: Stack) -> Iterator[Callable[..., Part]]:
    """Starts a worker, with what Stack.start_worker takes; those still alive end with the test."""
    started: list[Part] = []

    def start(**options: Any) -> Part:
        part = installation.start_worker(f"worker-{uuid4().hex[:8]}", **options)
        started.append(part)
        return part

    yield start
    for part in started:
        part.stop()


@pytest.fixture
def worker(start_worker: Callable[..., Part]) -> Part:
    """One worker for one test."""
    return start_worker()


@pytest.fixture
async def template_put_back(installation: Stack) -> AsyncIterator[None]:
    """Whatever a test deploys, the next one finds what prefect.yaml says."""
    async with get_client() as client:
        template = await deployment.read_template(client)
        yield
        kept = {name: getattr(template, name) for name in (*deployment.COPIED, "tags")}
        await client.update_deployment(template.id, DeploymentUpdate(**kept))


@pytest.fixture
def sandbox(installation: Stack) -> Iterator[SandboxClient]:
    """The sandbox; whatever a test does, nothing may come early or twice."""
    with SandboxClient(installation.sandbox_url) as client:
        before = client.verdict()
        yield client
        client.clear_faults()
        after = client.verdict()
    for count in ("early", "double_close", "rekeyed", "reuse"):
        assert getattr(after, count) == getattr(before, count), count


@pytest.fixture
def nights(sandbox: SandboxClient) -> Nights:
    """The nights of a binding that no other test uses."""
    return Nights(sandbox)
