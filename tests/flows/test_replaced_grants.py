"""A grant that another takes the place of is revoked, whatever is killed or away meanwhile."""

import json
from datetime import timedelta
from typing import Any

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from pydantic import SecretStr

from blocks import grant as grants
from blocks import systems
from blocks.grant import Grant, revoking
from blocks.oauth import OAuthServer
from deployments.sweep import Sweep
from flows import configure as configuring
from tests.flows.batch import Batch, is_alive
from tests.flows.journeys import Journeys, Killed


async def sweep() -> None:
    async with get_client() as client:
        await Sweep().look(client)


async def configured_twice(batch: Batch, *, while_away: bool = True) -> SecretStr:
    """The refresh token that the second configuration could not revoke."""
    assert (await batch.configure()).is_completed()
    first = await batch.grant()
    assert first
    if while_away:
        refuse_revocations(batch)
    assert (await batch.configure()).is_completed()
    batch.sandbox.clear_faults()
    return first.refresh_token


def refuse_revocations(batch: Batch) -> None:
    tenant = batch.binding.tenant_id
    batch.sandbox.fault("revoke", "status", tenant_id=tenant, status=503, count=50)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blocks.oauth.server.REVOCATION_PATIENCE", 0.1)


async def pending(batch: Batch) -> int:
    stored = await batch.grant()
    assert stored
    return len(stored.to_revoke)


async def test_a_journey_killed_after_it_replaced_a_grant_revokes_it_when_it_goes_on(
    journeys: Journeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = journeys.batch
    await batch.configure()
    first = await batch.grant()
    run = await journeys.start()
    with monkeypatch.context() as kill:
        kill.setattr(configuring, "_require_access", Killed.at_once)
        await journeys.work(run)
    assert await pending(batch) == 1

    assert (await journeys.work(run)).state_name == "Completed"

    assert first
    assert not await is_alive(first.refresh_token)
    assert await pending(batch) == 0


async def test_a_replaced_grant_that_could_not_be_revoked_is_after_the_nights_refresh(
    batch: Batch,
) -> None:
    first = await configured_twice(batch)
    assert await pending(batch) == 1

    await grants.refresh(batch.binding, await systems.oauth_server())

    assert not await is_alive(first)
    assert await pending(batch) == 0


async def test_a_refresh_succeeds_though_a_replaced_grant_still_cannot_be_revoked(
    batch: Batch,
) -> None:
    await configured_twice(batch)
    refuse_revocations(batch)

    fresh = await grants.refresh(batch.binding, await systems.oauth_server())

    assert fresh.access_token
    assert await pending(batch) == 1


async def test_a_replaced_grant_that_could_not_be_revoked_is_by_a_worker(batch: Batch) -> None:
    first = await configured_twice(batch)

    await sweep()

    assert not await is_alive(first)
    assert await pending(batch) == 0
    new = await batch.grant()
    assert new
    assert await is_alive(new.refresh_token)


async def test_every_grant_that_was_replaced_is_revoked_in_the_end(batch: Batch) -> None:
    replaced = []
    refuse_revocations(batch)
    for _ in range(3):
        assert (await batch.configure()).is_completed()
        stored = await batch.grant()
        assert stored
        replaced.append(stored.refresh_token)
    batch.sandbox.clear_faults()
    assert await pending(batch) == 2

    await sweep()

    assert [await is_alive(token) for token in replaced] == [False, False, True]


async def test_a_grant_that_is_forgotten_is_revoked_with_what_it_had_replaced(batch: Batch) -> None:
    first = await configured_twice(batch)

    assert await grants.forget(batch.binding, await systems.oauth_server())

    assert not await is_alive(first)


async def test_a_replaced_grant_that_nobody_revokes_is_given_up_after_days(
    batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    first = await configured_twice(batch)
    refuse_revocations(batch)
    await sweep()
    assert await pending(batch) == 1

    batch.clock.ahead = revoking.GIVEN_UP_AFTER + timedelta(minutes=1)
    await sweep()

    assert await pending(batch) == 0
    assert "never revoked" in caplog.text
    assert first.get_secret_value() not in caplog.text


async def test_a_server_that_refuses_to_revoke_is_not_asked_again(batch: Batch) -> None:
    assert (await batch.configure()).is_completed()
    body = {"error": "unsupported_token_type"}
    batch.sandbox.fault(
        "revoke", "status", tenant_id=batch.binding.tenant_id, status=400, body=body
    )

    assert (await batch.configure()).is_completed()

    assert await pending(batch) == 0


async def test_nothing_replaced_is_kept_where_replaced_grants_are_not_to_be_revoked(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await systems.oauth_server()
    lenient = server.model_copy(update={"revoke_replaced": False})

    async def load() -> OAuthServer:
        return lenient

    monkeypatch.setattr(systems, "oauth_server", load)
    assert (await batch.configure()).is_completed()
    first = await batch.grant()
    monkeypatch.setattr(configuring, "complete_configured", Killed.at_once)

    with pytest.raises(Killed):
        await batch.configure()

    assert await pending(batch) == 0
    assert first
    assert await is_alive(first.refresh_token)


async def test_a_replaced_grant_is_stored_as_a_secret_with_the_new_one(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Grant(refresh_token=SecretStr("first"))
    await grants.store(batch.binding, first)

    await grants.store(
        batch.binding, Grant(refresh_token=SecretStr("second")), revoke_replaced=True
    )

    name = f"grant-{batch.binding.slug}"
    held = (await Secret.aload(name)).get()
    assert [it["refresh_token"] for it in held["to_revoke"]] == ["first"]
    stored = await batch.grant()
    assert stored
    assert "first" not in repr(stored)
    assert "first" not in json.dumps(await shown(name))


async def shown(name: str) -> Any:
    """What Prefect shows of the block to whoever does not ask for secrets."""
    async with get_client() as client:
        wanted = {"block_documents": {"name": {"any_": [name]}}}
        return (await client.request("POST", "/block_documents/filter", json=wanted)).json()
