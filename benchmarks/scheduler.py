"""What a round of Prefect's scheduler costs: `python -m benchmarks.scheduler --bindings 5000`.

It looks at every binding's deployment. Prints the CPU seconds of a process that runs a round, and
of PostgreSQL meanwhile: of one that lays out one more night for each binding, and of one that finds
nothing to do. The server's own scheduler stands still.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.installation import installed, postgres_port
from benchmarks.meter import Meter
from benchmarks.set_up import AT_ONCE
from benchmarks.ways import BATCH, BatchClose, request_of
from blocks import clock
from blocks.binding import Binding
from deployments import postgres
from deployments.stack import Stack
from flows.configure import configure_schedule

SERVER_ONLY = {"PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false"}
ONE_MORE = {"PREFECT_SERVER_SERVICES_SCHEDULER_MIN_RUNS": "4"}
"""Three are laid out when a binding is configured."""

ROUND = """
import asyncio, time
from prefect.server.services.scheduler import schedule_deployments
began = time.process_time()
asyncio.run(schedule_deployments(None))
print(time.process_time() - began)
"""


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduler")
    parser.add_argument("--bindings", type=int, default=5000)
    asyncio.run(_measure(parser.parse_args().bindings))
    return 0


async def _measure(bindings: int) -> None:
    way = BatchClose()
    with (
        tempfile.TemporaryDirectory(prefix="scheduler-") as home,
        installed(Path(home), "postgres", way, **SERVER_ONLY) as running,
        temporary_settings({PREFECT_API_URL: running.api_url}),
    ):
        running.start_sandbox()
        await way.prepare(running)
        began = time.monotonic()
        await _set_up(bindings)
        _say(f"bindings: {bindings}, set up in {time.monotonic() - began:.0f} s")
        for what in ("one more night for each", "nothing to do"):
            process, database = await _round(running)
            _say(f"{what}: {process + database:.1f} CPU-s, of which the database {database:.1f}")


async def _set_up(bindings: int) -> None:
    first = (clock.now() + timedelta(days=1)).replace(microsecond=0)
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        binding = Binding(f"tenant-{number:05}", BATCH)
        async with places:
            await configure_schedule.fn(binding, request_of(binding, first))

    await asyncio.gather(*(one(number) for number in range(bindings)))


async def _round(running: Stack) -> tuple[float, float]:
    """CPU seconds of a process that runs one round, and of the database."""
    meter = Meter()
    meter.add("database", postgres.process_ids(postgres_port(running) or 0)[0])
    before = meter.cpu()["database"]
    process = await asyncio.to_thread(_run, {**running.environment, **ONE_MORE})
    return process, meter.cpu()["database"] - before


def _run(environment: dict[str, str]) -> float:
    enabled = {**environment, "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "true"}
    command = [sys.executable, "-c", ROUND]
    done = subprocess.run(  # noqa: S603
        command, env=enabled, check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
