"""A worker that was told to end does so, whatever its interpreter would wait for."""

import subprocess
import sys

# What ends at once otherwise waits for each other thread, as Prefect's for what it has to report.
TOLD = """
import asyncio, os, signal, sys, threading, time
from deployments import sigterm

async def work():
    with sigterm.until_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)

sigterm.ENDS_WITHIN = float(sys.argv[1])
threading.Thread(target=time.sleep, args=[float(sys.argv[2])]).start()
asyncio.run(work())
"""


def ended(ends_within: float, waits_for: float) -> subprocess.CompletedProcess[str]:
    """A process that was told to end, and whose interpreter then waits for so many seconds."""
    command = [sys.executable, "-c", TOLD, str(ends_within), str(waits_for)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_a_worker_that_was_told_to_end_does_not_wait_for_what_prefect_has_to_report() -> None:
    done = ended(0.5, 60)

    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert "may not be reported" in line


def test_a_worker_that_ends_in_time_is_left_to_end_by_itself() -> None:
    done = ended(20, 0.5)

    assert (done.returncode, done.stderr) == (0, "")
