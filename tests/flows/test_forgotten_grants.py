"""A grant that is forgotten while the OAuth server is away is revoked in the end all the same."""

from datetime import timedelta

import pytest
from prefect.client.orchestration import get_client

from blocks import grant as grants
from blocks import secret_blocks, systems
from blocks.grant import Grant, GrantMissingError, revoking
from deployments import batches as ends
from deployments.sweep import Sweep
from flows import configure as configuring
from tests.flows.batch import Batch, is_alive


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blocks.oauth.server.REVOCATION_PATIENCE", 0.1)


async def sweep() -> None:
    async with get_client() as client:
        await Sweep().look(client)


def refuse_revocations(batch: Batch) -> None:
    tenant = batch.binding.tenant_id
    batch.sandbox.fault("revoke", "status", tenant_id=tenant, status=503, count=500)


async def configured(batch: Batch) -> Grant:
    assert (await batch.configure()).is_completed()
    grant = await batch.grant()
    assert grant
    return grant


async def is_stored(batch: Batch) -> bool:
    name = f"{grants.PREFIX}{batch.binding.slug}"
    return await secret_blocks.find(name) is not None


async def test_a_batch_that_was_ended_while_the_oauth_server_was_away_is_revoked_by_a_worker(
    batch: Batch,
) -> None:
    grant = await configured(batch)
    refuse_revocations(batch)
    await ends.end(batch.binding)
    assert not await batch.is_configured(), "nobody takes it for a grant"
    assert await is_stored(batch)

    await sweep()
    batch.sandbox.clear_faults()
    await sweep()

    assert not await is_stored(batch)
    assert not await is_alive(grant.refresh_token)


async def test_the_same_after_its_last_night(batch: Batch) -> None:
    await batch.configure_past(max_runs=1)
    refuse_revocations(batch)
    assert (await batch.run_by_hand()).is_completed()
    assert await batch.grant() is None
    assert await is_stored(batch)
    batch.sandbox.clear_faults()

    await sweep()

    assert not await is_stored(batch)
    assert batch.sandbox.live_grants(batch.binding.tenant_id) == 0


async def test_the_same_where_its_first_configuration_failed(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise RuntimeError("whatever it is")

    monkeypatch.setattr(configuring, "configure_schedule", refuse)
    refuse_revocations(batch)
    assert (await batch.configure()).is_failed()
    assert await batch.grant() is None
    batch.sandbox.clear_faults()

    await sweep()

    assert not await is_stored(batch)
    assert batch.sandbox.live_grants(batch.binding.tenant_id) == 0


async def test_a_grant_that_is_over_counts_as_missing_and_keeps_no_access_token(
    batch: Batch,
) -> None:
    await configured(batch)
    server = await systems.oauth_server()
    refuse_revocations(batch)

    assert not await grants.forget(batch.binding, server)

    for use in (grants.load(batch.binding), grants.refresh(batch.binding, server)):
        with pytest.raises(GrantMissingError):
            await use
    with pytest.raises(GrantMissingError):
        await grants.access_token(batch.binding, server)
    assert await grants.find(batch.binding) is None
    kept = (await grants.find_several([batch.binding]))[batch.binding.slug]
    assert kept.over_since
    assert kept.access_token is None


async def test_a_batch_that_is_configured_again_revokes_the_grant_that_was_over(
    batch: Batch,
) -> None:
    first = await configured(batch)
    refuse_revocations(batch)
    await ends.end(batch.binding)
    batch.sandbox.clear_faults()

    new = await configured(batch)

    assert not new.to_revoke
    assert new.over_since is None
    assert not await is_alive(first.refresh_token)
    assert await is_alive(new.refresh_token)


async def test_a_grant_that_nobody_can_revoke_is_given_up_after_days(
    batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    grant = await configured(batch)
    refuse_revocations(batch)
    await ends.end(batch.binding)

    batch.clock.ahead = revoking.GIVEN_UP_AFTER + timedelta(minutes=1)
    await sweep()

    assert not await is_stored(batch)
    assert "never revoked" in caplog.text
    assert grant.refresh_token.get_secret_value() not in caplog.text


async def test_what_was_replaced_before_is_revoked_with_the_grant_that_is_over(
    batch: Batch,
) -> None:
    refuse_revocations(batch)
    tokens = [(await configured(batch)).refresh_token for _ in range(2)]
    await grants.forget(batch.binding, await systems.oauth_server())
    batch.sandbox.clear_faults()

    await sweep()

    assert [await is_alive(token) for token in tokens] == [False, False]
