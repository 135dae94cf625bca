"""The Journeys API as a process of its own, in front of a real Prefect server and worker."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from blocks import deployment, systems
from deployments.demo import save_blocks
from deployments.http_api.paths import START
from deployments.stack import Part, Stack
from tests.end_to_end.arazzo import DOCS, Workflow
from tests.end_to_end.nights import Nights

ROOT = DOCS.parent
FIRST_RUN = "2030-01-01T23:00:00+01:00[Europe/Paris]"


@pytest.fixture
def journeys_api(installation: Stack) -> Iterator[Part]:
    part = installation.start_journeys_api()
    yield part
    part.stop()


@pytest.fixture
async def unverified_callers(installation: Stack) -> AsyncIterator[None]:
    server = await systems.oauth_server()
    unverified = server.model_copy(update={"caller_verification": "none"})
    await unverified.save(systems.DOCUMENT, overwrite=True)
    yield
    await save_blocks(installation.sandbox_url)


@pytest.mark.usefixtures("worker", "journeys_api")
async def test_the_arazzo_workflow_ends_in_scheduled(installation: Stack, nights: Nights) -> None:
    workflow = Workflow(DOCS / "daily-orders-batch-close.arazzo.yaml", installation.journeys_url)
    wanted = nights.wanted(FIRST_RUN, interval="P1D", maxRuns=365)
    outputs = await workflow.run(accessToken=nights.caller_token(), startRequest=wanted)

    assert outputs["status"] == "SCHEDULED"
    # The seed's step table, literally.
    steps = [step for step, _ in workflow.answers]
    assert list(dict.fromkeys(steps)) == ["startJourney", "getStatus", "getResult"]
    started, *polled, result = [answer for _, answer in workflow.answers]
    assert started.status_code == 202
    assert started.json()["journeyId"] == outputs["journeyId"]
    assert {answer.status_code for answer in polled} == {200}
    assert [answer.json()["phase"] for answer in polled[:-1]] == ["Running"] * (len(polled) - 1)
    assert result.status_code == 200
    assert result.json()["phase"] == polled[-1].json()["phase"] == "Succeeded"
    output = result.json()["output"]
    assert (
        output.items()
        >= {
            name: wanted[name]
            for name in ("tenantId", "batchId", "firstRunAt", "interval", "maxRuns")
        }.items()
    )
    assert await deployment.find(nights.binding)


@pytest.mark.usefixtures("worker", "journeys_api")
async def test_the_readmes_curl_call_is_accepted(installation: Stack, nights: Nights) -> None:
    (call,) = re.findall(
        r"^curl .*?(?=^```)", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    command = call.replace("http://127.0.0.1:8080", installation.journeys_url)
    environment = os.environ | {"TOKEN": nights.sandbox.subject_token("acme")}
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"journeyName":"daily-orders-batch-close"' in done.stdout


async def test_it_stops_when_it_is_told_to_and_answers_those_who_wait(
    installation: Stack, journeys_api: Part, nights: Nights
) -> None:
    headers = {"Authorization": f"Bearer {nights.caller_token()}"}
    async with httpx.AsyncClient(
        base_url=installation.journeys_url, headers=headers, timeout=30, trust_env=False
    ) as client:
        started = await client.post(START, json=nights.wanted(FIRST_RUN))
        location = started.headers["Location"]
        await client.get(location)
        waiting = asyncio.create_task(client.get(location, headers={"Prefer": "wait=60"}))
        await asyncio.sleep(0.5)
        journeys_api.process.send_signal(signal.SIGTERM)
        answer = await waiting
    assert answer.json()["phase"] == "Running"
    assert await asyncio.to_thread(journeys_api.process.wait, 15) == 0


async def test_no_token_is_in_its_log(
    installation: Stack, journeys_api: Part, nights: Nights
) -> None:
    token = nights.caller_token()
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(
        base_url=installation.journeys_url, headers=headers, trust_env=False
    ) as client:
        await client.post(START, json=nights.wanted(FIRST_RUN))
        await client.post(START, json=nights.wanted(token))
        await client.get("/api/v1/journeys/none")
    log = journeys_api.log.read_text()
    assert "POST" in log
    assert token not in log
    assert token[:16] not in log


async def test_it_refuses_to_listen_elsewhere_where_callers_are_not_verified(
    installation: Stack, unverified_callers: None
) -> None:
    everywhere = "0.0.0.0"  # noqa: S104  (that is what is refused)
    command = [sys.executable, "-m", "deployments.serve", "--host", everywhere, "--port", "0"]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env=installation.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "caller_verification" in done.stderr


@pytest.mark.usefixtures("worker", "journeys_api")
async def test_schemathesis_finds_no_fault(
    installation: Stack, nights: Nights, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "schemathesis.cli"]
    command += ["--config-file", str(Path(__file__).with_name("schemathesis.toml"))]
    command += ["run", f"{installation.journeys_url}/openapi.json"]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env={
            **installation.environment,
            "TOKEN": nights.caller_token(),
            "TENANT": nights.binding.tenant_id,
            "PYTHONPATH": str(ROOT),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
