"""How the parts of an installation on this machine are ended."""

import subprocess
import sys
from pathlib import Path

import pytest

from deployments import stack
from deployments.stack import Part


def part(log: Path, code: str) -> Part:
    """A process that has begun, and says so first."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout
    with process.stdout as said:
        assert said.readline()
    return Part("worker-7", process, log)


def test_a_part_that_does_not_end_when_it_is_asked_to_is_killed_and_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "STOP_SECONDS", 0.2)
    deaf = part(
        tmp_path / "log",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('here', flush=True); time.sleep(60)",
    )

    deaf.stop()

    assert deaf.process.returncode == -9
    (line,) = capfd.readouterr().err.splitlines()
    assert "worker-7" in line
    assert "killed" in line


def test_a_part_that_ends_when_it_is_asked_to_is_not_spoken_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    polite = part(tmp_path / "log", "import time; print('here', flush=True); time.sleep(60)")

    polite.stop()

    assert polite.process.returncode == -15
    assert not capfd.readouterr().err
