"""The stored grant: one writer at a time, and what it writes is never lost."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import reduce
from typing import Any
from uuid import uuid4

import httpx
import pytest
from anyio import CancelScope
from anyio.lowlevel import checkpoint
from prefect.client.orchestration import PrefectClient
from pydantic import SecretStr

from blocks import clock, grant, lock
from blocks.binding import Binding
from blocks.grant import Grant, GrantError, GrantMissingError, document, model, refreshing
from blocks.lock import LockedError
from blocks.oauth import GrantLostError, OAuthError, OAuthServer, Tokens
from blocks.systems import oauth_server
from deployments.sandbox.client import SandboxClient
from tests.flows.batch import Batch, is_alive
from tests.flows.journeys import Killed
from tests.locks import is_released


@pytest.fixture
async def server(sandbox: SandboxClient) -> OAuthServer:
    return await oauth_server()


@pytest.fixture
async def stored(binding: Binding, sandbox: SandboxClient, server: OAuthServer) -> Grant:
    """A grant as the configure flow stores it."""
    subject_token = SecretStr(sandbox.subject_token(binding.tenant_id))
    tokens = await server.exchange(subject_token, tenant_id=binding.tenant_id)
    await grant.store(binding, Grant.from_exchange(tokens))
    return await grant.load(binding)


@pytest.mark.parametrize("token", ["12345678901234567890", "true", "null", '{"a": 1}', '"'])
async def test_a_token_comes_back_as_the_text_that_it_was(
    binding: Binding, prefect_api: None, token: str
) -> None:
    await grant.store(binding, Grant(refresh_token=SecretStr(token)))

    assert (await grant.load(binding)).refresh_token.get_secret_value() == token


async def test_a_stored_grant_remembers_which_ones_it_replaced_until_they_are_revoked(
    binding: Binding, prefect_api: None
) -> None:
    for token in ("first", "second", "third"):
        new = Grant(refresh_token=SecretStr(token))
        await grant.store(binding, new, revoke_replaced=True)

    stored = await grant.load(binding)
    assert stored.refresh_token.get_secret_value() == "third"
    replaced = [it.refresh_token.get_secret_value() for it in stored.to_revoke]
    assert replaced == ["first", "second"]


async def test_a_grant_remembers_no_more_than_a_few_of_those_that_it_replaced(
    binding: Binding, prefect_api: None
) -> None:
    grants = (Grant(refresh_token=SecretStr(str(number))) for number in range(100))

    newest = reduce(lambda old, new: new.replacing(old, clock.now(), revoke=True), grants)

    assert len(newest.to_revoke) == model.MOST_TO_REVOKE
    assert newest.to_revoke[-1].refresh_token.get_secret_value() == "98"


async def test_a_grant_that_was_lost_is_not_revoked_when_it_is_replaced() -> None:
    lost = Grant(refresh_token=SecretStr("lost")).lost("refused")
    new = Grant(refresh_token=SecretStr("new"))

    assert not new.replacing(lost, clock.now(), revoke=True).to_revoke


async def test_a_forgotten_grant_is_gone_and_may_be_forgotten_again(
    binding: Binding, stored: Grant, server: OAuthServer
) -> None:
    for _ in range(2):
        await grant.forget(binding, server)
    with pytest.raises(GrantMissingError):
        await grant.load(binding)


async def test_a_grant_is_forgotten_only_after_it_was_revoked(
    binding: Binding, stored: Grant, server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as kill:
        kill.setattr(OAuthServer, "revoke", Killed.at_once)
        with pytest.raises(Killed):
            await grant.forget(binding, server)
    assert await grant.load(binding) == stored, "whoever goes on could not revoke it"

    await grant.forget(binding, server)

    assert await grant.find(binding) is None
    assert not await is_alive(stored.refresh_token)
    await grant.forget(binding, server)


async def test_a_grant_that_is_not_there_cannot_be_refreshed(
    binding: Binding, server: OAuthServer
) -> None:
    with pytest.raises(GrantMissingError, match="configure it"):
        await grant.refresh(binding, server)


async def test_an_access_token_with_life_left_is_used_again(
    batch: Batch, stored: Grant, server: OAuthServer
) -> None:
    assert await grant.access_token(batch.binding, server) == stored.access_token
    assert not batch.requests("token.refresh")


async def test_an_access_token_about_to_expire_is_refreshed(
    batch: Batch, stored: Grant, server: OAuthServer
) -> None:
    batch.clock.move_to(stored.expires_at - timedelta(seconds=1))

    token = await grant.access_token(batch.binding, server)

    assert token != stored.access_token
    assert token == (await grant.load(batch.binding)).access_token


async def test_runs_that_need_a_new_token_at_the_same_time_refresh_once(
    batch: Batch, stored: Grant, server: OAuthServer
) -> None:
    rejected = stored.access_token

    tokens = await asyncio.gather(
        *(grant.access_token(batch.binding, server, rejected=rejected) for _ in range(3))
    )

    assert len({token.get_secret_value() for token in tokens}) == 1
    assert tokens[0] != rejected
    assert [event.status for event in batch.requests("token.refresh")] == [200]


async def test_runs_that_refresh_at_the_same_time_never_present_a_used_token(
    batch: Batch, stored: Grant, server: OAuthServer
) -> None:
    await asyncio.gather(*(grant.refresh(batch.binding, server) for _ in range(3)))

    assert [event.status for event in batch.requests("token.refresh")] == [200, 200, 200]


async def test_a_token_refused_for_good_is_marked_and_never_sent_again(
    batch: Batch, stored: Grant, server: OAuthServer
) -> None:
    await server.revoke(stored.refresh_token)

    for _ in range(2):
        with pytest.raises(GrantLostError):
            await grant.refresh(batch.binding, server)

    assert len(batch.requests("token.refresh")) == 1
    marked = await grant.load(batch.binding)
    assert marked.lost_because
    assert marked.access_token is None


@pytest.mark.parametrize(
    ("status", "error"), [(401, "invalid_client"), (400, "unauthorized_client"), (403, None)]
)
async def test_a_refusal_that_is_not_about_the_token_leaves_the_grant_as_it_was(
    batch: Batch, stored: Grant, server: OAuthServer, status: int, error: str | None
) -> None:
    batch.sandbox.fault(
        "token.refresh",
        "status",
        tenant_id=batch.binding.tenant_id,
        status=status,
        body={"error": error} if error else "Forbidden",
    )
    with pytest.raises(OAuthError):
        await grant.refresh(batch.binding, server)

    assert await grant.load(batch.binding) == stored
    await grant.refresh(batch.binding, server)


async def test_a_grant_that_prefect_does_not_store_fails_without_telling_the_token(
    batch: Batch, stored: Grant, server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: PrefectClient, __: Any, update: Any) -> None:
        request = httpx.Request("PATCH", "http://prefect/api/block_documents/1")
        response = httpx.Response(500, request=request, text=str(update.data))
        raise httpx.HTTPStatusError(str(update.data), request=request, response=response)

    monkeypatch.setattr(PrefectClient, "update_block_document", refuse)
    monkeypatch.setattr(document, "STORE_PAUSES", (0, 0))

    with pytest.raises(GrantError, match="configure it again") as failure:
        await grant.refresh(batch.binding, server)

    assert "rt-" not in str(failure.value)
    assert failure.value.__cause__ is None


async def test_one_tenants_grant_is_not_anothers(
    batches: Callable[..., Batch], batch: Batch, stored: Grant, server: OAuthServer
) -> None:
    other = batches(Binding(batch.binding.tenant_id.upper(), batch.binding.batch_id))

    with pytest.raises(GrantMissingError):
        await grant.access_token(other.binding, server)


async def test_a_grant_that_stays_locked_is_not_refreshed_and_says_so(
    batch: Batch, stored: Grant, server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.2)

    async with lock.only_holder(f"lock-{batch.binding.slug}"):
        with pytest.raises(LockedError, match="is locked"):
            await grant.refresh(batch.binding, server)

    assert not batch.requests("token.refresh")
    assert await grant.load(batch.binding) == stored


async def test_a_process_has_no_more_refreshes_under_way_than_the_block_says(
    sandbox: SandboxClient, server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refreshing, "_turns", {})
    under_way = most = 0
    ask = OAuthServer.refresh

    async def counted(self: OAuthServer, refresh_token: SecretStr) -> Tokens:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.1)
        tokens = await ask(self, refresh_token)
        under_way -= 1
        return tokens

    monkeypatch.setattr(OAuthServer, "refresh", counted)
    server = server.model_copy(update={"refreshes_at_once": 2})
    everyone = [Binding(f"tenant-{uuid4().hex[:8]}", "eod") for _ in range(6)]
    for binding in everyone:
        subject_token = SecretStr(sandbox.subject_token(binding.tenant_id))
        tokens = await server.exchange(subject_token, tenant_id=binding.tenant_id)
        await grant.store(binding, Grant.from_exchange(tokens))

    await asyncio.gather(*(grant.refresh(binding, server) for binding in everyone))

    assert most == 2


async def test_a_run_that_is_cancelled_lets_go_of_its_lock(batch: Batch) -> None:
    with CancelScope() as scope:
        async with lock.only_holder(f"lock-{batch.binding.slug}"):
            scope.cancel()
            await checkpoint()

    assert scope.cancelled_caught
    assert await is_released(f"lock-{batch.binding.slug}")
