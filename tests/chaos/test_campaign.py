"""The campaign itself: a short one passes, and a build that is broken on purpose does not."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deployments import postgres
from tests.chaos.broken import BUILDS, PROJECT, BrokenBuild

AT_ONCE = 2
"""Campaigns, which mostly wait."""


def campaign(*options: str, project: Path = PROJECT) -> tuple[int, str]:
    """Run a campaign with the code of this folder; its exit status and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--longest", "2", *options],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def broken_campaign(build: BrokenBuild) -> tuple[int, str]:
    """One that finds the build out, or the second that does not: some need a race to be lost."""
    with TemporaryDirectory(prefix="daily-orders-broken-") as folder:
        project = build.copy(Path(folder))
        status, output = campaign(*build.options, project=project)
        if build.words not in output:
            status, output = campaign(*build.options, "--seed", "2", project=project)
        return status, output


@pytest.fixture(scope="module")
def playing(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[tuple[int, str]]]]:
    """The campaigns of all broken builds that are asked for, some at a time."""
    chosen: list[BrokenBuild] = []
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.originalname == "test_a_build_is_found_out":
            build = item.callspec.params["build"]
            assert isinstance(build, BrokenBuild)
            chosen.append(build)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {build.name: pool.submit(broken_campaign, build) for build in chosen}


def test_a_short_campaign_loses_doubles_and_blocks_nothing() -> None:
    status, output = campaign("--trials", "20", "--seed", "11")

    assert status == 0, output
    assert output.splitlines()[-1] == "chaos: trials=20 seed=11 wrong=0 exit=ok"


def test_two_workers_on_postgres_lose_double_and_block_nothing_either() -> None:
    try:
        postgres.programs()
    except postgres.PostgresMissingError as missing:
        pytest.skip(str(missing))
    status, output = campaign("--trials", "10", "--seed", "12", "--workers", "2", "--db=postgres")

    assert status == 0, output


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.name)
def test_a_build_is_found_out(
    build: BrokenBuild, playing: dict[str, Future[tuple[int, str]]]
) -> None:
    status, output = playing[build.name].result()

    assert status == 1, output
    assert build.words in output, output
