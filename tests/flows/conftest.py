"""Flows in this process, against a real Prefect API on a temporary database and the sandbox."""

import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from uuid import uuid4

import pytest
from prefect.settings import (
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_LOGGING_TO_API_ENABLED,
    PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED,
    PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED,
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED,
    PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness

from blocks import clock, deployment
from blocks.binding import Binding
from blocks.orders import Pace
from deployments.demo import save_blocks
from deployments.sandbox.client import SandboxClient
from deployments.sandbox.serving import running_sandbox
from deployments.sandbox.settings import SandboxSettings
from flows.daily_close import daily_close
from tests.flows.batch import Batch, SettableClock

# What keeps the server busy, SQLite locked and the tests slow.
UNNEEDED_HERE = {
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED: False,
    PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED: False,
    PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED: False,
    PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED: False,
    PREFECT_LOGGING_TO_API_ENABLED: False,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False,
}


@pytest.fixture(scope="package")
def sandbox_url() -> Iterator[str]:
    with running_sandbox(SandboxSettings(rotation="strict")) as url:
        yield url


@pytest.fixture(scope="package")
async def prefect_api(sandbox_url: str) -> AsyncIterator[None]:
    with (
        pytest.MonkeyPatch.context() as patch,
        temporary_settings(UNNEEDED_HERE),
        prefect_test_harness(server_startup_timeout=120),
    ):
        # Each of Prefect's clients reads all certificates again, and this is http.
        patch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        # Prefect's client asks again 2 s after SQLite was locked for a moment.
        patch.setattr("prefect.client.base.clamped_poisson_interval", lambda wait, _: wait / 10)
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


@pytest.fixture(autouse=True)
def no_pause_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "delay", lambda *_: 0.0)
