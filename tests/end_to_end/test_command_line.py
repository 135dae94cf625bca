"""What people type, as the README prints it, and what the Prefect UI shows them as a form."""

import asyncio
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from blocks import deployment
from deployments.journeys import DEPLOYMENT
from deployments.stack import Stack, StackError
from tests.end_to_end.nights import Nights


async def hand_over(installation: Stack, nights: Nights) -> str:
    """`python -m deployments.hand_over NAME`, with the token on standard input; what it prints."""
    command = ["-m", "deployments.hand_over", f"token-of-{nights.binding.tenant_id}"]
    token = f"{nights.caller_token()}\n"
    return (await asyncio.to_thread(installation.run, *command, stdin=token)).strip()


async def run_configure(installation: Stack, **parameters: object) -> str:
    """`prefect deployment run configure/daily-orders-batch-close --watch -p ...`; its output."""
    given = [item for name, value in parameters.items() for item in ("-p", f"{name}={value}")]
    command = ["prefect", "deployment", "run", DEPLOYMENT, "--watch", *given]
    return await asyncio.to_thread(installation.run, *command)


async def is_stored(block: str) -> bool:
    """Whether there is a Secret block of this name."""
    async with get_client() as client:
        try:
            await client.read_block_document_by_name(block, block_type_slug="secret")
        except ObjectNotFound:
            return False
    return True


async def schemas() -> dict[str, dict[str, Any]]:
    """What the parameters of the deployed flows are, as the Prefect API tells the UI."""
    async with get_client() as client:
        configure = await client.read_deployment_by_name(DEPLOYMENT)
        template = await deployment.read_template(client)
    found = {"configure": configure, "daily-close": template}
    return {flow: it.parameter_openapi_schema or {} for flow, it in found.items()}


@pytest.mark.usefixtures("worker")
async def test_configuring_from_the_command_line_schedules_and_forgets_the_token(
    installation: Stack, nights: Nights
) -> None:
    wrong = Nights(nights.sandbox)
    blocks = [await hand_over(installation, who) for who in (nights, wrong)]
    assert [await is_stored(block) for block in blocks] == [True, True]

    wanted = {"batch_id": "eod", "interval": "P1D", "max_runs": 365}
    good = run_configure(
        installation,
        tenant_id=nights.binding.tenant_id,
        first_run_at="2030-01-01T23:00:00+01:00[Europe/Paris]",
        access_token_block=blocks[0],
        **wanted,
    )
    bad = run_configure(
        installation,
        tenant_id=wrong.binding.tenant_id,
        first_run_at="tomorrow",
        access_token_block=blocks[1],
        **wanted,
    )
    output, refusal = await asyncio.gather(good, bad, return_exceptions=True)

    assert isinstance(output, str), output
    assert "SCHEDULED: 365 runs" in " ".join(output.split())
    found = await nights.deployment()
    assert not found.paused
    assert (await nights.moments())[0].isoformat() == "2030-01-01T22:00:00+00:00"

    assert isinstance(refusal, StackError)
    assert "firstRunAt 'tomorrow' is not" in " ".join(str(refusal).split())
    assert await deployment.find(wrong.binding) is None
    # The token of a request that was refused stays, for an hour, for the corrected one.
    assert [await is_stored(block) for block in blocks] == [False, True]


async def test_registering_the_blocks_takes_one_command(installation: Stack) -> None:
    output = await asyncio.to_thread(
        installation.run, "prefect", "block", "register", "--module", "blocks"
    )
    assert "Successfully registered 2 blocks" in output
    assert "OAuth Server" in output
    assert "Orders API" in output


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize("flow", ["configure", "daily-close"])
async def test_every_parameter_tells_people_what_to_enter(flow: str) -> None:
    parameters = (await schemas())[flow]["properties"]
    assert parameters
    for name, shown in parameters.items():
        assert shown.get("title"), f"{name} has no title"
        assert shown["title"] != name, f"{name} has no title of its own"
        assert len(shown.get("description", "")) > 20, f"{name} is not described"
    without = {name for name, shown in parameters.items() if not shown.get("examples")}
    assert without <= {"configured"}, "parameters without an example"
