"""One night at a time, closed in this process."""

from datetime import timedelta

from blocks import clock, grant
from blocks.binding import Binding
from blocks.grant import Grant
from blocks.systems import oauth_server
from deployments.sandbox.client import SandboxClient
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.daily_close import daily_close
from pydantic import SecretStr


def due_now(binding: Binding, **changed: object) -> DailyOrdersBatchCloseConfigRequest:
    """A configuration whose first night began a minute ago."""
    began = (clock.now() - timedelta(minutes=1)).replace(microsecond=0)
    return DailyOrdersBatchCloseConfigRequest.model_validate(
        {
            "tenantId": binding.tenant_id,
            "batchId": binding.batch_id,
            "firstRunAt": began.isoformat(),
            "interval": "P1D",
            "maxRuns": 3,
            "upstreamWaitDuration": "PT1S",
            "replicationDelayDuration": "PT0.1S",
            **changed,
        }
    )


async def store_grant(binding: Binding, sandbox: SandboxClient) -> None:
    server = await oauth_server()
    subject_token = SecretStr(sandbox.subject_token(binding.tenant_id))
    tokens = await server.exchange(subject_token, tenant_id=binding.tenant_id)
    await grant.store(binding, Grant.from_exchange(tokens))


async def test_a_night_that_is_due_is_closed_once(
    binding: Binding, sandbox: SandboxClient
) -> None:
    await store_grant(binding, sandbox)
    request = due_now(binding)
    for _ in range(2):
        state = await daily_close(binding.tenant_id, binding.batch_id, request, return_state=True)
        assert state.is_completed(), state.message
    assert len(sandbox.closes(binding.tenant_id, binding.batch_id)) == 1
