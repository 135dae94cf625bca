"""What is left of tokens where a journey is cancelled, with a real worker."""

import asyncio

import pytest
from prefect.client.orchestration import get_client
from prefect.states import Cancelling

from blocks import deployment, secret_blocks
from blocks import grant as grants
from deployments import journeys
from tests.end_to_end.nights import Nights, in_seconds, until


@pytest.mark.usefixtures("worker")
async def test_a_journey_cancelled_while_its_token_is_exchanged_leaves_neither_token_nor_grant(
    nights: Nights,
) -> None:
    tenant = nights.binding.tenant_id
    nights.sandbox.fault("token.exchange", "slow", tenant_id=tenant, seconds=4)
    journey_id = await journeys.start(nights.wanted(in_seconds(3600)), nights.caller_token())
    await until("the exchange", lambda: nights.sandbox.live_grants(tenant) > 0)

    async with get_client() as client:
        run = await client.read_flow_run(journey_id)
        await client.set_flow_run_state(journey_id, Cancelling())

    await until("the grant's revocation", lambda: nights.sandbox.live_grants(tenant) == 0)
    async with asyncio.timeout(30):
        while (await journeys.status(journey_id)).phase == "Running":  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    assert await secret_blocks.find(run.parameters["access_token_block"]) is None
    assert await grants.find(nights.binding) is None
    assert await deployment.find(nights.binding) is None
