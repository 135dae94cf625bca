"""Flows in this process, against a real Prefect API on a temporary database and the sandbox."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from blocks import clock
from blocks.binding import Binding
from deployments.demo import save_blocks
from deployments.sandbox.client import SandboxClient
from deployments.sandbox.serving import running_sandbox
from deployments.sandbox.settings import SandboxSettings
from prefect.testing.utilities import prefect_test_harness


class SettableClock:
    """Stands where the project looks at the clock; may be moved, and goes on from there."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def move_to(self, moment: datetime) -> None:
        self.ahead = moment - datetime.now(UTC)


@pytest.fixture(scope="package")
def sandbox_url() -> Iterator[str]:
    with running_sandbox(SandboxSettings(rotation="strict")) as url:
        yield url


@pytest.fixture(scope="package")
async def prefect_api(sandbox_url: str) -> AsyncIterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        await save_blocks(sandbox_url)
        yield


@pytest.fixture
def sandbox(sandbox_url: str, prefect_api: None) -> Iterator[SandboxClient]:
    with SandboxClient(sandbox_url) as client:
        yield client
        client.clear_faults()


@pytest.fixture
def binding() -> Binding:
    """A binding that no other test uses."""
    return Binding(f"tenant-{uuid4().hex[:8]}", "eod")


@pytest.fixture
def settable_clock(monkeypatch: pytest.MonkeyPatch) -> SettableClock:
    settable = SettableClock()
    monkeypatch.setattr(clock, "now", settable)
    return settable
