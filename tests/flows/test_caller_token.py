"""What may be taken for a caller's token, and how long it lives."""

import json
from typing import Any
from uuid import uuid4

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from pydantic import SecretStr

from blocks import caller_token, secret_blocks
from blocks.caller_token import CallerTokenError
from flows import configure as configuring
from flows.configure import configure
from tests.flows.batch import Batch
from tests.flows.journeys import Journeys, Killed


async def by_hand(batch: Batch, name: str) -> str:
    """A token of the batch's tenant, handed over as `python -m deployments.hand_over` does."""
    token = batch.sandbox.subject_token(batch.binding.tenant_id)
    block = f"caller-{name}-{batch.binding.tenant_id}"
    return await caller_token.hand_over(SecretStr(token), block)


async def is_stored(block: str) -> bool:
    return await secret_blocks.find(block) is not None


@pytest.mark.parametrize("whose", ["the operator's own", "another tenant's grant"])
async def test_a_secret_that_is_no_callers_token_is_neither_sent_nor_deleted(
    batch: Batch, whose: str
) -> None:
    name = "db-password" if whose.startswith("the") else "grant-acme-eod-abcdefghijklmnopqrst"
    await Secret(value=json.dumps({"refresh_token": "x"})).asave(name, overwrite=True)
    asked_before = batch.sandbox.events()

    state = await batch.configure(access_token_block=name)

    assert state.is_failed()
    assert "begins with 'caller-'" in state.message
    assert batch.sandbox.events() == asked_before
    assert await is_stored(name)


async def test_a_token_that_somebody_put_in_place_of_a_blocks_name_is_not_shown(
    batch: Batch,
) -> None:
    token = batch.sandbox.subject_token(batch.binding.tenant_id)

    state = await batch.configure(access_token_block=token)

    assert state.is_failed()
    assert token not in state.message


async def test_a_typo_leaves_a_token_handed_over_by_hand_for_the_corrected_run(
    batch: Batch,
) -> None:
    block = await by_hand(batch, "typo")

    assert (await batch.configure(first_run_at="tomorrow", access_token_block=block)).is_failed()
    assert await is_stored(block)

    assert (await batch.configure(access_token_block=block)).is_completed()
    assert not await is_stored(block)


async def test_an_oauth_server_that_is_away_leaves_a_token_for_when_it_is_back(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = await by_hand(batch, "away")
    monkeypatch.setattr("blocks.oauth.server.EXCHANGE_PATIENCE", 0.1)
    batch.sandbox.fault(
        "token.exchange", "status", tenant_id=batch.binding.tenant_id, status=503, count=9
    )
    assert (await batch.configure(access_token_block=block)).is_failed()
    assert await is_stored(block)
    batch.sandbox.clear_faults()

    assert (await batch.configure(access_token_block=block)).is_completed()
    assert not await is_stored(block)


async def test_a_journeys_own_token_is_deleted_when_an_unexpected_error_ends_it(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> None:
        raise RuntimeError("A bug of ours.")

    monkeypatch.setattr(configuring, "refuse_superseded", broken)

    assert (await batch.configure()).is_failed()
    assert not await batch.caller_token_is_stored()


async def test_a_journey_that_goes_on_after_its_grant_was_stored_forgets_the_token(
    journeys: Journeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await journeys.start()
    with monkeypatch.context() as kill:
        kill.setattr(caller_token, "withdraw", Killed.at_once)
        await journeys.work(run)
    assert await is_stored(run.parameters["access_token_block"])

    assert (await journeys.work(run)).state_name == "Completed"
    assert not await is_stored(run.parameters["access_token_block"])
    assert len(journeys.batch.requests("token.exchange")) == 1


async def test_a_token_is_not_taken_for_absent_because_a_gateway_answers_404(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with get_client() as client:
        kind = type(client)

    async def not_found(*_: object, **__: object) -> Any:
        raise AssertionError("asked by its name, to which a gateway answers 404, too")

    monkeypatch.setattr(kind, "read_block_document_by_name", not_found)
    assert await caller_token.take(await by_hand(batch, "gateway"))


def test_the_form_says_how_a_blocks_name_begins() -> None:
    described = configure.parameters.model_dump()["properties"]["access_token_block"]
    assert "caller-" in described["description"]
    assert described["examples"][0].startswith(caller_token.PREFIX)


async def test_nobody_overwrites_what_somebody_else_handed_over(prefect_api: None) -> None:
    name = f"caller-{uuid4().hex[:8]}"
    await caller_token.hand_over(SecretStr("alices"), name)
    with pytest.raises(CallerTokenError, match="already"):
        await caller_token.hand_over(SecretStr("mallorys"), name)
    assert (await caller_token.take(name)).get_secret_value() == "alices"
