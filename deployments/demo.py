"""Two nights in a minute: a whole installation on this machine, configured once, closing by itself.

Starts a Prefect server (SQLite), a worker and the sandbox (a real HTTP OAuth server and Orders
API), deploys from prefect.yaml, configures tenant "acme", batch "eod", over the Journeys API, and
watches the schedule fire twice. The last line is the sandbox's own count of what it received.
"""

import argparse
import asyncio
import json
import os
import shutil
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks import systems
from blocks.binding import Binding
from blocks.oauth import OAuthServer
from blocks.orders import OrdersApi
from deployments.http_api.paths import START
from deployments.sandbox.client import SandboxClient
from deployments.sandbox.settings import SandboxSettings
from deployments.stack import WORK_POOL, Stack, StackError, stack
from deployments.watch import Watch
from deployments.worker import BatchCloseWorker
from flows.contract import DailyOrdersBatchCloseConfigRequest

BINDING = Binding("acme", "eod")
NIGHTS = 2
LEAD = timedelta(seconds=6)
PATIENCE = timedelta(seconds=90)
POLL_SECONDS = 0.3


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--rotation", default="strict", choices=["strict", "grace", "none"])
    parser.add_argument("--keep", action="store_true", help="leave it running to look at")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="daily-orders-demo-"))
    os.environ["BATCH_CLOSE_SHORTEST_INTERVAL"] = "PT10S"  # nights of seconds must be asked for
    try:
        with stack(home) as installation:
            return asyncio.run(_demo(installation, options.rotation, keep=options.keep))
    except KeyboardInterrupt:
        return 130
    except (StackError, httpx.HTTPError) as error:
        print(f"{error}\ndemo: exit=failed", flush=True)  # noqa: T201
        return 1
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def _demo(installation: Stack, rotation: str, *, keep: bool) -> int:
    watch = Watch()
    watch.say("Starting the sandbox and a Prefect server")
    installation.start_sandbox("--rotation", rotation)
    installation.start_server()
    watch.say(f"Prefect UI: {installation.ui_url}, {installation.how_to_log_in}")
    with (
        temporary_settings({PREFECT_API_URL: installation.api_url}),
        SandboxClient(installation.sandbox_url) as sandbox,
    ):
        watch.say("Saving the blocks, prefect deploy --all, starting a worker and the Journeys API")
        await create_work_pool()
        await save_blocks(installation.sandbox_url)
        installation.start_worker()
        await asyncio.gather(
            asyncio.to_thread(installation.run, "prefect", "--no-prompt", "deploy", "--all"),
            asyncio.to_thread(installation.start_journeys_api),
        )
        watch.say(f"Journeys API: {installation.journeys_url}/docs")
        await _configure(installation.journeys_url, sandbox, watch)
        await _watch_the_nights(sandbox, watch)
        if keep:
            watch.say(f"Left running: {installation.ui_url} (Ctrl-C ends it)")
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return _verdict(sandbox)


async def create_work_pool() -> None:
    """What `prefect work-pool create daily-orders --type batch-close` does."""
    template = BatchCloseWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=WORK_POOL, type=BatchCloseWorker.type, base_job_template=template)
    async with get_client() as client:
        await client.create_work_pool(pool)


async def save_blocks(sandbox_url: str) -> None:
    """Describe the sandbox to the flows, as an operator describes real systems."""
    client = SandboxSettings()
    server = OAuthServer(
        issuer=sandbox_url,
        client_id=client.client_id,
        client_secret=client.client_secret,
        caller_verification="introspection",
        caller_tenant_claim="tenant_id",
    )
    await server.asave(systems.DOCUMENT, overwrite=True)
    await OrdersApi(base_url=sandbox_url).asave(systems.DOCUMENT, overwrite=True)


async def _configure(url: str, sandbox: SandboxClient, watch: Watch) -> None:
    first_run_at = (datetime.now(UTC) + LEAD).replace(microsecond=0)
    wanted = {
        "tenantId": BINDING.tenant_id,
        "batchId": BINDING.batch_id,
        "firstRunAt": first_run_at.isoformat(),
        "interval": "PT20S",
        "maxRuns": NIGHTS,
        "upstreamWaitDuration": "PT5S",
        "replicationDelayDuration": "PT4S",
    }
    request = DailyOrdersBatchCloseConfigRequest.model_validate(wanted)
    sandbox.plan(
        BINDING.tenant_id,
        BINDING.batch_id,
        request.recurrence.occurrences(),
        upstream_wait=request.upstream_wait,
        replication_delay=request.replication_delay,
    )
    watch.say(f"Configuring {BINDING}: {NIGHTS} nights from {wanted['firstRunAt']}")
    token = sandbox.subject_token(BINDING.tenant_id)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
        await _three_calls(client, wanted, watch)
    watch.answers(sandbox)


async def _three_calls(client: httpx.AsyncClient, wanted: object, watch: Watch) -> None:
    """What a configuration UI does: start, ask for the status until it is done, get the result."""
    started = await client.post(START, json=wanted)
    _show(started, watch, "journeyId")
    location = started.raise_for_status().headers["Location"]
    phase = step = "Running"
    while phase == "Running":
        await asyncio.sleep(POLL_SECONDS)
        status = (await client.get(location)).raise_for_status()
        seen, (phase, step) = (phase, step), (status.json()["phase"], status.json()["currentState"])
        if seen != (phase, step):
            _show(status, watch, "phase", "currentState")
    _show(await client.get(started.json()["_links"]["result"]["href"]), watch, "output", "error")


def _show(answer: httpx.Response, watch: Watch, *members: str) -> None:
    body = answer.json()
    shown = {name: body[name] for name in members if name in body} or body
    request = f"{answer.request.method} {answer.request.url.path}"
    watch.say(f"{request} {answer.status_code} {json.dumps(shown)}")


async def _watch_the_nights(sandbox: SandboxClient, watch: Watch) -> None:
    deadline = datetime.now(UTC) + PATIENCE
    async with get_client() as client:
        while datetime.now(UTC) < deadline:
            runs = await watch.look(client, sandbox, BINDING)
            if len(runs) == NIGHTS and all(run.state and run.state.is_final() for run in runs):
                return
            await asyncio.sleep(0.3)
    watch.say("The nights did not end in time")


def _verdict(sandbox: SandboxClient) -> int:
    """Print the sandbox's count; 0 if every night was closed once, in time, with its own token."""
    counted = sandbox.verdict().model_dump(exclude={"rekeyed"})
    wanted = {"configured": 1, "closed": NIGHTS, "refreshed": NIGHTS}
    good = counted == dict.fromkeys(counted, 0) | wanted
    counts = " ".join(f"{name}={count}" for name, count in counted.items())
    print(f"demo: {counts} exit={'ok' if good else 'failed'}", flush=True)  # noqa: T201
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
