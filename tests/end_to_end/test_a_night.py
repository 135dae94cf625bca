"""Configured once, closed by the schedule."""

import asyncio
from datetime import timedelta

from blocks import clock
from blocks.binding import Binding
from deployments import journeys
from deployments.sandbox.client import SandboxClient
from deployments.stack import Part


async def test_a_first_run_five_seconds_ahead_is_not_missed(
    worker: Part, sandbox: SandboxClient, binding: Binding
) -> None:
    first_run_at = (clock.now() + timedelta(seconds=5)).replace(microsecond=0)
    await journeys.configure_batch(
        {
            "tenantId": binding.tenant_id,
            "batchId": binding.batch_id,
            "firstRunAt": first_run_at.isoformat(),
            "interval": "PT1H",
            "maxRuns": 1,
            "upstreamWaitDuration": "PT1S",
            "replicationDelayDuration": "PT1S",
        },
        sandbox.subject_token(binding.tenant_id),
    )
    async with asyncio.timeout(60):
        while not sandbox.closes(binding.tenant_id, binding.batch_id):
            await asyncio.sleep(0.2)
