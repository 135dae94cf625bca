"""What a round of Prefect's scheduler costs: it looks at every binding there is."""

import asyncio
import subprocess
import sys

from benchmarks.installation import Installation
from benchmarks.meter import Meter

ROUND = """
import asyncio
from prefect.server.services.scheduler import schedule_deployments
asyncio.run(schedule_deployments(None))
"""
"""In a process of its own on the server's database, where nothing else counts."""


async def scheduler_rounds(installation: Installation) -> dict[str, float]:
    """CPU seconds of a process and the database for two rounds, and what starting them takes.

    After a night each binding has one run fewer laid out than the scheduler wants: the first round
    lays it out, the second finds nothing to do.
    """
    start = await _cpu_of("import prefect.server.services.scheduler", installation)
    return {
        "laying_out": await _cpu_of(ROUND, installation) - start,
        "nothing_to_do": await _cpu_of(ROUND, installation) - start,
    }


async def _cpu_of(code: str, installation: Installation) -> float:
    meter = Meter()
    meter.roots["database"] = installation.meter.roots["database"]
    before = meter.cpu()["database"]
    own = await asyncio.to_thread(_run, code, installation.stack.environment)
    return own + meter.cpu()["database"] - before


def _run(code: str, environment: dict[str, str]) -> float:
    """The CPU seconds of a Python process that runs this code to its end."""
    timed = f"{code}\nimport time\nprint(time.process_time())"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", timed],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout.split()[-1])
