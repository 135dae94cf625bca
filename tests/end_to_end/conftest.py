"""A whole installation: a real Prefect server, real workers and the sandbox, each a process."""

import os
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
from blocks.binding import Binding
from deployments.demo import save_blocks
from deployments.sandbox.client import SandboxClient
from deployments.stack import Part, Stack, stack
from prefect.settings import PREFECT_API_URL, temporary_settings

os.environ["BATCH_CLOSE_SHORTEST_INTERVAL"] = "PT5S"  # nights of seconds must be asked for


@pytest.fixture(scope="package")
async def installation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Server and sandbox, deployed and with the blocks saved; workers are each test's own."""
    with stack(tmp_path_factory.mktemp("installation")) as running:
        running.start_sandbox()
        running.start_server()
        with temporary_settings({PREFECT_API_URL: running.api_url}):
            running.run("prefect", "work-pool", "create", "daily-orders", "--type", "batch-close")
            await save_blocks(running.sandbox_url)
            running.run("prefect", "--no-prompt", "deploy", "--all")
            yield running


@pytest.fixture
def worker(installation: Stack) -> Iterator[Part]:
    """One worker for one test."""
    part = installation.start_worker(f"worker-{uuid4().hex[:8]}")
    yield part
    part.stop()


@pytest.fixture
def sandbox(installation: Stack) -> Iterator[SandboxClient]:
    with SandboxClient(installation.sandbox_url) as client:
        yield client
        client.clear_faults()


@pytest.fixture
def binding() -> Binding:
    """A binding that no other test uses."""
    return Binding(f"tenant-{uuid4().hex[:8]}", "eod")
