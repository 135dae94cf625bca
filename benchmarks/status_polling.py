"""How fast the Journeys API answers clients that poll: `python -m benchmarks.status_polling`.

A real uvicorn process in front of an embedded Prefect server (SQLite), and clients that each poll a
running journey of their own, as another tenant, on a connection of their own. No worker runs, so
that every journey stays Running and has to be read again and again. Prints the milliseconds that
answers took; exits with 1 if the 99th percentile is 50 ms or more.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.demo import create_work_pool, save_blocks
from deployments.http_api.paths import START
from deployments.sandbox.client import SandboxClient
from deployments.stack import Stack, stack

WANTED_P99 = 50.0
WARM_UP = 3.0
"""Seconds that are not counted: connections are opened, tokens verified."""


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.status_polling")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--every", type=float, default=0.25, help="seconds between polls")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="status-polling-") as home,
        stack(Path(home)) as installation,
    ):
        installation.start_sandbox()
        installation.start_server()
        with temporary_settings({PREFECT_API_URL: installation.api_url}):
            asyncio.run(_prepare(installation))
        installation.run("prefect", "--no-prompt", "deploy", "--all")
        installation.start_journeys_api()
        took = asyncio.run(_measure(installation, options.clients, options.every, options.seconds))
    return _report(took, options)


async def _prepare(installation: Stack) -> None:
    await create_work_pool()
    await save_blocks(installation.sandbox_url)


async def _measure(installation: Stack, clients: int, every: float, seconds: float) -> list[float]:
    with SandboxClient(installation.sandbox_url) as sandbox:
        polled = [await _start(installation, sandbox, f"tenant-{it}") for it in range(clients)]
    until = time.monotonic() + WARM_UP + seconds
    took = await asyncio.gather(*(_poll(client, url, every, until) for client, url in polled))
    for client, _ in polled:
        await client.aclose()
    return [milliseconds for one in took for milliseconds in one]


async def _start(
    installation: Stack, sandbox: SandboxClient, tenant: str
) -> tuple[httpx.AsyncClient, str]:
    headers = {"Authorization": f"Bearer {sandbox.subject_token(tenant)}"}
    client = httpx.AsyncClient(
        base_url=installation.journeys_url, headers=headers, timeout=30, trust_env=False
    )
    wanted = {
        "tenantId": tenant,
        "batchId": "eod",
        "firstRunAt": (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="seconds"),
        "interval": "P1D",
        "maxRuns": 365,
    }
    started = (await client.post(START, json=wanted)).raise_for_status()
    return client, started.headers["Location"]


async def _poll(client: httpx.AsyncClient, url: str, every: float, until: float) -> list[float]:
    """Poll until then; the milliseconds of every answer after the warm-up."""
    counted_from = time.monotonic() + WARM_UP
    took = []
    while time.monotonic() < until:
        # Real clients are not in step either.
        await asyncio.sleep(random.uniform(0.5, 1.5) * every)  # noqa: S311
        began = time.monotonic()
        answer = await client.get(url)
        answer.raise_for_status()
        if began >= counted_from:
            took.append((time.monotonic() - began) * 1000)
    return took


def _report(took: list[float], options: argparse.Namespace) -> int:
    percentiles = statistics.quantiles(took, n=100)
    p50, p99 = percentiles[49], percentiles[98]
    print(  # noqa: T201
        f"{options.clients} clients, each every {options.every:g} s for {options.seconds:g} s:"
        f" {len(took)} answers, p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {max(took):.1f} ms"
    )
    return 0 if p99 < WANTED_P99 else 1


if __name__ == "__main__":
    raise SystemExit(main())
