"""Deploying new code with bindings configured: each gets the code, none loses a night."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client

from blocks import deployment
from deployments.sandbox.client import SandboxClient
from deployments.stack import Stack
from tests.end_to_end.nights import PROJECT, Nights, in_seconds

DAYS = 24 * 60 * 60


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Another place to deploy from, whose code and prefect.yaml differ in everything they may."""
    project: dict[str, Any] = yaml.safe_load(PROJECT.read_text())
    template, *_ = project["deployments"]
    template["entrypoint"] = "moved_elsewhere.daily_close"
    template["version"] = "second"
    template["description"] = "The second version."
    template["tags"] = [*template["tags"], "second"]
    template["work_pool"] = template["work_pool"] | {"job_variables": {"env": {"SECOND": "yes"}}}
    directory = {"directory": str(tmp_path)}
    template["pull"] = [{"prefect.deployments.steps.set_working_directory": directory}]
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(project))
    (tmp_path / "moved_elsewhere.py").write_text("from flows.daily_close import daily_close\n")
    return tmp_path


async def switch_off(nights: Nights) -> None:
    """Turn the binding's schedule off, as the switch beside it in the Prefect UI does."""
    found = await nights.deployment()
    async with get_client() as client:
        await client.update_deployment_schedule(found.id, found.schedules[0].id, active=False)


@pytest.mark.usefixtures("template_put_back")
async def test_new_code_reaches_every_binding_and_no_night_is_lost(
    installation: Stack, sandbox: SandboxClient, checkout: Path
) -> None:
    soon, far, paused, switched_off = everyone = [Nights(sandbox) for _ in range(4)]
    for nights in (soon, paused, switched_off):
        await nights.configure(in_seconds(3600), interval="P1D", maxRuns=30)
    await far.configure(in_seconds(200 * DAYS), interval="P1W", maxRuns=5)
    await deployment.pause(paused.binding)
    await switch_off(switched_off)
    before = [await nights.deployment() for nights in everyone]
    moments = [await nights.moments() for nights in (soon, far)]
    assert [len(each) for each in moments] == [3, 3]

    installation.run("prefect", "--no-prompt", "deploy", "--all", cwd=checkout)

    assert [await nights.moments() for nights in (soon, far)] == moments
    assert not await paused.runs()
    assert not await switched_off.runs()
    for nights, old in zip(everyone, before, strict=True):
        new = await nights.deployment()
        assert (new.id, new.name, new.paused) == (old.id, old.name, old.paused)
        assert new.schedules == old.schedules
        assert new.parameters == old.parameters
        assert new.entrypoint == "moved_elsewhere.daily_close"
        assert new.pull_steps != old.pull_steps
        assert new.version == "second"
        assert new.description == "The second version."
        assert new.job_variables == {"env": {"SECOND": "yes"}}
        assert set(new.tags) == {*old.tags, "second"}


async def test_deploying_the_same_again_changes_no_binding(
    installation: Stack, nights: Nights
) -> None:
    await nights.configure(in_seconds(3600), interval="P1D", maxRuns=2)
    before, moments = await nights.deployment(), await nights.moments()
    installation.run("prefect", "--no-prompt", "deploy", "--all")
    after = await nights.deployment()
    passing = {"updated", "updated_by", "status", "last_polled"}
    assert after.model_dump(exclude=passing) == before.model_dump(exclude=passing)
    assert await nights.moments() == moments
