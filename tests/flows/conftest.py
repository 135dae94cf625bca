"""Flows in this process, against a real Prefect API on a temporary database and the sandbox."""

import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from uuid import uuid4

import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)

from blocks import clock, deployment, systems
from blocks.binding import Binding
from blocks.orders import Pace
from deployments.demo import save_blocks
from deployments.sandbox.client import SandboxClient
from deployments.sandbox.serving import running_sandbox
from deployments.sandbox.settings import SandboxSettings
from deployments.stack import stack
from flows.configure import configure
from flows.daily_close import daily_close
from tests.flows.batch import Batch, SettableClock
from tests.flows.journeys import Journeys

# What keeps the server busy and the tests slow.
UNNEEDED_THERE = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "3",  # as somebody might
}
UNNEEDED_HERE = {
    PREFECT_LOGGING_TO_API_ENABLED: False,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False,
}


@pytest.fixture(scope="package")
def sandbox_url() -> Iterator[str]:
    with running_sandbox(SandboxSettings(rotation="strict")) as url:
        yield url


@pytest.fixture(scope="package")
async def prefect_api(
    tmp_path_factory: pytest.TempPathFactory, sandbox_url: str
) -> AsyncIterator[None]:
    with (
        pytest.MonkeyPatch.context() as patch,
        stack(tmp_path_factory.mktemp("prefect"), **UNNEEDED_THERE) as installation,
        temporary_settings({PREFECT_API_URL: installation.api_url, **UNNEEDED_HERE}),
    ):
        installation.start_server()
        # Each of Prefect's clients reads all certificates again, and this is http.
        patch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        await save_blocks(sandbox_url)
        template = await daily_close.ato_deployment(deployment.TEMPLATE, tags=["daily-orders"])
        await template.aapply()
        yield


@pytest.fixture
def sandbox(sandbox_url: str, prefect_api: None) -> Iterator[SandboxClient]:
    with SandboxClient(sandbox_url) as client:
        yield client
        client.clear_faults()


@pytest.fixture
async def forgiving_sandbox(prefect_api: None, sandbox_url: str) -> AsyncIterator[SandboxClient]:
    """Another OAuth server and Orders API: a refresh token may be repeated for some seconds."""
    with running_sandbox(SandboxSettings(rotation="grace")) as url, SandboxClient(url) as client:
        await save_blocks(url)
        yield client
        await save_blocks(sandbox_url)


@pytest.fixture
def binding() -> Binding:
    """A binding that no other test uses."""
    return Binding(f"tenant-{uuid4().hex[:8]}", "eod")


@pytest.fixture
def settable_clock(monkeypatch: pytest.MonkeyPatch) -> SettableClock:
    settable = SettableClock()
    monkeypatch.setattr(clock, "now", settable)
    return settable


@pytest.fixture
def batches(sandbox: SandboxClient, settable_clock: SettableClock) -> Callable[..., Batch]:
    return lambda binding, at=sandbox: Batch(binding, at, settable_clock)


@pytest.fixture
def batch(batches: Callable[..., Batch], binding: Binding) -> Batch:
    return batches(binding)


@pytest.fixture(scope="package")
async def configure_deployed(prefect_api: None) -> None:
    found = await configure.ato_deployment("daily-orders-batch-close", tags=["daily-orders"])
    await found.aapply()


@pytest.fixture
def journeys(configure_deployed: None, batch: Batch) -> Journeys:
    return Journeys(batch)


@pytest.fixture(autouse=True)
def blocks_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "KEPT_SECONDS", 0)


@pytest.fixture(autouse=True)
def no_pause_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "delay", lambda *_: 0.0)
