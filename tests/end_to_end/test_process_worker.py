"""The same journey where each piece of a run is a process of its own: the stock process worker."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from blocks import clock
from deployments.stack import Part, Stack
from tests.end_to_end.nights import PROJECT, Nights, due_together, until

POOL = "daily-orders-in-processes"


@pytest.fixture
def process_worker(installation: Stack, start_worker: Callable[..., Part], tmp_path: Path) -> Part:
    """A stock process worker, and the template deployed where it looks."""
    installation.run("prefect", "work-pool", "create", POOL, "--type", "process")
    worker = start_worker(kind="process", pool=POOL)
    project = yaml.safe_load(PROJECT.read_text())
    template, _ = project["deployments"]
    template["work_pool"]["name"] = POOL
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(project | {"deployments": [template]}))
    installation.run("prefect", "--no-prompt", "deploy", "--all", cwd=tmp_path)
    return worker


def children(part: Part) -> list[str]:
    """The command lines of the processes that this one started and that still are."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "ppid=,args="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    mine = str(part.process.pid)
    return [line.strip() for line in listed if line.split(maxsplit=1)[0] == mine]


@pytest.mark.usefixtures("template_put_back")
async def test_a_night_is_closed_by_the_process_worker_and_waits_without_a_process(
    process_worker: Part, nights: Nights
) -> None:
    await due_together([nights], upstream_wait=18)
    assert (await nights.deployment()).work_pool_name == POOL

    await until("a process to start", lambda: children(process_worker))
    run = await nights.reach("WaitForUpstream")
    assert run.state
    wakes_at = run.state.state_details.scheduled_time
    assert wakes_at
    await until("the process to end", lambda: not children(process_worker))
    assert clock.now() < wakes_at, "the process stayed for as long as the wait"
    (run,) = await nights.runs()
    assert run.state_name == "WaitForUpstream"

    await nights.reach("Completed")
    (close,) = nights.closes()
    assert close.occurrence == run.expected_start_time
    assert nights.refreshes() == 1
