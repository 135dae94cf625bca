"""A grant whose deployment somebody deleted is revoked and forgotten; no other ever is."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import PrefectClient, get_client

from blocks import grant as grants
from blocks import secret_blocks, systems
from blocks.binding import Binding
from blocks.grant import Grant
from blocks.grant.revoking import GIVEN_UP_AFTER
from blocks.secret_blocks import StoredSecret
from deployments.unneeded_grants import IN_A_ROW, UNTOUCHED, UnneededGrants
from tests.flows.batch import Batch, is_alive
from tests.flows.journeys import Journeys

LATER = UNTOUCHED + timedelta(minutes=1)


class Worker:
    """A worker that looks now and then."""

    def __init__(self) -> None:
        self.grants = UnneededGrants()

    async def look(self, times: int = 1) -> None:
        """Look for grants that nobody needs."""
        async with get_client() as client:
            for _ in range(times):
                await self.grants.look(client)


async def configured(batch: Batch) -> Grant:
    assert (await batch.configure()).is_completed()
    grant = await batch.grant()
    assert grant
    return grant


async def delete_deployment(batch: Batch) -> None:
    """What somebody does in Prefect's UI."""
    found = await batch.deployment()
    assert found
    async with get_client() as client:
        await client.delete_deployment(found.id)


async def left_alone(batch: Batch) -> Grant:
    """A configured batch whose deployment was deleted over an hour ago; its grant."""
    grant = await configured(batch)
    await delete_deployment(batch)
    batch.clock.ahead = LATER
    return grant


async def test_the_grant_of_a_deployment_that_somebody_deleted_is_revoked_and_forgotten(
    batch: Batch,
) -> None:
    grant = await left_alone(batch)
    worker = Worker()
    await worker.look()
    assert await batch.grant(), "one look is not enough"

    await worker.look()

    assert await batch.grant() is None
    assert not await is_alive(grant.refresh_token)


async def test_the_grant_of_a_living_batch_is_left_alone_however_old_it_is(batch: Batch) -> None:
    grant = await configured(batch)
    batch.clock.ahead = timedelta(days=400)

    await Worker().look(times=3)

    assert await is_alive(grant.refresh_token)
    assert await batch.grant()


async def test_a_grant_that_was_stored_within_the_hour_is_left_alone(batch: Batch) -> None:
    await configured(batch)
    await delete_deployment(batch)
    batch.clock.ahead = UNTOUCHED - timedelta(minutes=1)

    await Worker().look(times=3)

    assert await batch.grant()


async def test_a_grant_that_was_stored_anew_between_two_looks_is_left_alone(batch: Batch) -> None:
    grant = await left_alone(batch)
    worker = Worker()
    await worker.look()
    await grants.store(batch.binding, grant)

    await worker.look()

    assert await batch.grant()


async def test_a_grant_is_left_alone_while_its_binding_is_to_be_configured(
    batch: Batch, journeys: Journeys
) -> None:
    await left_alone(batch)
    await journeys.start()

    await Worker().look(times=3)

    assert await batch.grant()


async def test_what_is_left_to_do_is_done_after_a_day_though_a_journey_never_ends(
    batch: Batch, journeys: Journeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocks.oauth.server.REVOCATION_PATIENCE", 0.1)
    await configured(batch)
    refuse_revocations(batch)
    assert (await configured(batch)).to_revoke
    batch.sandbox.clear_faults()
    await journeys.start()
    await Worker().look()
    assert await are_left_to_revoke(batch), "the journey is about to do it"

    batch.clock.ahead = timedelta(days=1, minutes=1)
    await Worker().look()

    assert not await are_left_to_revoke(batch)


@pytest.mark.parametrize(
    "answer",
    [httpx.ReadTimeout(""), {"detail": "Not Found"}, "<html>"],
    ids=["none", "404", "a page"],
)
async def test_an_error_of_prefects_is_no_evidence_that_there_is_no_deployment(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    await configured(batch)
    batch.clock.ahead = LATER
    request = PrefectClient.request

    async def troubled(client: PrefectClient, method: Any, path: Any, **options: Any) -> Any:
        if not path.startswith("/deployments"):
            return await request(client, method, path, **options)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(200, json=answer)

    worker = Worker()
    monkeypatch.setattr(PrefectClient, "request", troubled)
    for _ in range(3):
        with pytest.raises((httpx.HTTPError, TypeError, KeyError)):
            await worker.look()

    assert await batch.grant()


async def test_somebodys_own_secret_with_such_a_name_is_left_alone(batch: Batch) -> None:
    await Secret(value="ours").asave("grant-of-the-city", overwrite=True)
    batch.clock.ahead = timedelta(days=400)

    await Worker().look(times=3)

    assert await secret_blocks.find("grant-of-the-city")


async def test_a_grant_that_nobody_needs_is_kept_until_the_oauth_server_is_back_or_for_days(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocks.oauth.server.REVOCATION_PATIENCE", 0.1)
    await left_alone(batch)
    refuse_revocations(batch)
    worker, name = Worker(), f"{grants.PREFIX}{batch.binding.slug}"
    await worker.look(times=3)
    assert await secret_blocks.find(name)

    batch.clock.ahead += GIVEN_UP_AFTER + timedelta(minutes=1)
    await worker.look(times=3)

    assert await secret_blocks.find(name) is None


async def test_a_grant_that_cannot_be_handled_holds_up_no_other(
    batches: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    several = [batches(Binding(f"tenant-{uuid4().hex[:8]}", "eod")) for _ in range(3)]
    for batch in several:
        batch.clock.ahead = timedelta(0)
        await left_alone(batch)
    find, stuck = grants.find, min(batch.binding.slug for batch in several)

    async def troubled(binding: Binding) -> Grant | None:
        if binding.slug == stuck:
            raise RuntimeError("whatever it is")
        return await find(binding)

    with monkeypatch.context() as trouble:
        trouble.setattr(grants, "find", troubled)
        await Worker().look(times=2)

    left = [batch.binding.slug for batch in several if await batch.grant()]
    assert left == [stuck]


async def test_two_workers_that_look_at_once_revoke_and_forget_once(batch: Batch) -> None:
    await left_alone(batch)
    workers = [Worker(), Worker()]

    await asyncio.gather(*(worker.look(times=2) for worker in workers))

    assert await batch.grant() is None
    assert len(batch.requests("revoke")) == 1


async def test_a_grant_is_read_once_for_each_time_that_it_is_stored(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await configured(batch)
    read = []
    real = grants.find_several

    async def noting(bindings: Any) -> Any:
        read.extend(binding.slug for binding in bindings)
        return await real(bindings)

    monkeypatch.setattr(grants, "find_several", noting)
    worker = Worker()
    await worker.look(times=3)
    assert read.count(batch.binding.slug) == 1

    await grants.refresh(batch.binding, await systems.oauth_server())
    await worker.look(times=2)

    assert read.count(batch.binding.slug) == 2


async def are_left_to_revoke(batch: Batch) -> bool:
    grant = await batch.grant()
    assert grant
    return bool(grant.to_revoke)


async def several_left_alone(batches: Callable[..., Batch], number: int) -> list[Batch]:
    """So many whose deployments were deleted, in the order in which a worker comes to them."""
    several = [batches(Binding(f"tenant-{uuid4().hex[:8]}", "eod")) for _ in range(number)]
    for batch in several:
        batch.clock.ahead = timedelta(0)
        await left_alone(batch)
    return sorted(several, key=lambda batch: batch.binding.slug)


def refuse_revocations(batch: Batch) -> None:
    tenant = batch.binding.tenant_id
    batch.sandbox.fault("revoke", "status", tenant_id=tenant, status=503, count=500)


async def test_a_grant_that_the_oauth_server_does_not_revoke_holds_up_no_other(
    batches: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocks.oauth.server.REVOCATION_PATIENCE", 0.1)
    stuck, *others = await several_left_alone(batches, 3)
    refuse_revocations(stuck)
    revoked = {batch.binding.slug: await batch.grant() for batch in others}

    await Worker().look(times=2)

    assert len(stuck.requests("revoke")) > 0
    for grant in revoked.values():
        assert grant
        assert not await is_alive(grant.refresh_token)


async def test_a_replaced_grant_that_the_oauth_server_does_not_revoke_holds_up_no_other(
    batches: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocks.oauth.server.REVOCATION_PATIENCE", 0.1)
    slugs = [Binding(f"tenant-{uuid4().hex[:8]}", "eod") for _ in range(2)]
    stuck, other = (batches(it) for it in sorted(slugs, key=lambda it: it.slug))
    for batch in (stuck, other):
        await configured(batch)
        refuse_revocations(batch)
        await configured(batch)
    other.sandbox.clear_faults()
    refuse_revocations(stuck)

    await Worker().look()

    assert not await are_left_to_revoke(other)


async def test_a_look_stops_after_three_failures_in_a_row_and_the_next_goes_on_there(
    batches: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocks.oauth.server.REVOCATION_PATIENCE", 0.1)
    several = await several_left_alone(batches, IN_A_ROW + 1)
    for batch in several:
        refuse_revocations(batch)
    names = [f"{grants.PREFIX}{batch.binding.slug}" for batch in several]
    found = [it for it in await secret_blocks.find_all(grants.PREFIX) if it.name in names]

    async def find_all(_: str) -> list[StoredSecret]:
        return found  # and what other tests have left is in nobody's way

    monkeypatch.setattr(secret_blocks, "find_all", find_all)
    worker = Worker()

    def asked() -> list[bool]:
        return [bool(batch.requests("revoke")) for batch in several]

    await worker.look(times=2)
    assert asked() == [True] * IN_A_ROW + [False]

    await worker.look()
    assert all(asked()), "another look begins where the one before stopped"


async def test_a_grant_block_that_prefect_cannot_answer_hides_no_other(
    batch: Batch, binding: Binding
) -> None:
    await batch.configure()
    poisoned = Binding("poisoned", uuid4().hex)
    async with get_client() as client:
        secret = await client.read_block_type_by_slug("secret")
        schema = await client.get_most_recent_block_schema_for_block_type(secret.id)
        body = {
            "name": f"grant-{poisoned.slug}",
            "block_type_id": str(secret.id),
            "block_schema_id": str(schema.id),
            "data": {"value": {"x": 2**64}},
        }
        with suppress(httpx.HTTPStatusError):  # it is stored, and Prefect cannot say so
            await client.request("POST", "/block_documents/", json=body)

    try:
        assert [*await grants.find_several([poisoned, binding])] == [binding.slug]
    finally:
        stored = await secret_blocks.find(f"grant-{poisoned.slug}")
        assert stored
        await secret_blocks.delete(stored.id)
