"""The campaign itself: a short one passes, and a build that is broken on purpose does not."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments import postgres

PROJECT = Path(__file__).parents[2]
PARTS = ("blocks", "flows", "deployments", "tests", "prefect.yaml", "pyproject.toml")


def campaign(*options: str, project: Path = PROJECT) -> tuple[int, str]:
    """Run a campaign with the code of this folder; its exit status and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *options],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout)  # noqa: T201  (what pytest shows of a test that fails)
    return done.returncode, done.stdout


@pytest.fixture
def broken(tmp_path: Path) -> Callable[[str, str, str], Path]:
    """A copy of the project with one change that nobody should get away with."""

    def change(file: str, good: str, bad: str) -> Path:
        for part in PARTS:
            copy = shutil.copytree if (PROJECT / part).is_dir() else shutil.copy
            copy(PROJECT / part, tmp_path / part)
        text = (tmp_path / file).read_text()
        assert text.count(good) == 1, f"{file} has changed: break it in another way"
        (tmp_path / file).write_text(text.replace(good, bad))
        return tmp_path

    return change


def test_a_short_campaign_loses_doubles_and_blocks_nothing() -> None:
    status, output = campaign("--trials", "20", "--seed", "11")

    assert status == 0
    assert output.splitlines()[-1] == "chaos: trials=20 seed=11 wrong=0 exit=ok"


def test_two_workers_on_postgres_lose_double_and_block_nothing_either() -> None:
    try:
        postgres.programs()
    except postgres.PostgresMissingError as missing:
        pytest.skip(str(missing))
    status, _ = campaign("--trials", "10", "--seed", "12", "--workers", "2", "--db", "postgres")

    assert status == 0


def test_a_build_that_stores_rotated_tokens_after_their_use_is_found_out(
    broken: Callable[[str, str, str], Path],
) -> None:
    project = broken(
        "blocks/grant/use.py",
        "        await found.overwrite(fresh)\n",
        "        asyncio.get_running_loop().call_later(\n"
        "            30, lambda: asyncio.ensure_future(found.overwrite(fresh))\n"
        "        )\n",
    )
    blow = ["--only", "worker: in ReplicationDelay", "--access-token-seconds", "6"]
    status, output = campaign("--trials", "8", *blow, "--rotation", "strict", project=project)

    assert status == 1
    assert "the grant is lost" in output


def test_a_build_with_random_idempotency_keys_is_found_out(
    broken: Callable[[str, str, str], Path],
) -> None:
    project = broken(
        "flows/daily_close.py", '_key(night, "prepareSnapshot")', '__import__("uuid").uuid4().hex'
    )
    status, output = campaign("--trials", "4", "--only", "worker: after snapshot", project=project)

    assert status == 1
    assert "rekeyed=" in output


def test_a_build_that_sleeps_instead_of_waiting_is_found_out(
    broken: Callable[[str, str, str], Path],
) -> None:
    project = broken(
        "flows/waiting.py", "or left <= SLEPT_IN_PLACE", "or left <= 10 * SLEPT_IN_PLACE"
    )
    blow = "worker: in WaitForUpstream"
    status, output = campaign("--trials", "4", "--only", blow, project=project)

    assert status == 1
    assert "nobody was ever seen in WaitForUpstream" in output
