"""Configuring a batch: what stands afterwards, and what does not when it fails."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prefect.blocks.system import Secret
from prefect.client.base import PrefectHttpxAsyncClient
from prefect.client.orchestration import PrefectClient

from blocks import caller_token, clock, deployment
from blocks import grant as grants
from blocks.binding import Binding
from blocks.grant import document
from blocks.lock import LockedError
from deployments.batches import end
from flows.requests import read_request
from tests.flows.batch import Batch, is_alive


async def test_a_good_configuration_is_answered_as_scheduled(batch: Batch) -> None:
    state = await batch.configure(
        first_run_at="2030-01-31T23:00:00+01:00[Europe/Paris]", interval="P1M", max_runs=12
    )

    assert state.is_completed(), state.message
    outcome = await state.aresult()
    assert {**outcome, "cadence": ""} == {
        "status": "SCHEDULED",
        "tenantId": batch.binding.tenant_id,
        "batchId": "eod",
        "firstRunAt": "2030-01-31T23:00:00+01:00[Europe/Paris]",
        "interval": "P1M",
        "maxRuns": 12,
        "timeZone": "Europe/Paris",
        "cadence": "",
    }


async def test_the_grant_is_stored_as_a_secret_block(batch: Batch) -> None:
    await batch.configure()

    secret = (await Secret.aload(f"grant-{batch.binding.slug}")).get()
    assert secret["refresh_token"].startswith("rt-")
    assert secret["access_token"].startswith("at-")


async def test_the_next_night_stands_as_a_run_that_carries_the_request(batch: Batch) -> None:
    await batch.configure(first_run_at="2042-03-01T23:00:00Z", max_runs=2)

    found = await batch.deployment()
    assert len(found.schedules) == 1
    assert not found.paused
    first, second = await batch.nights()
    assert first.expected_start_time.isoformat() == "2042-03-01T23:00:00+00:00"
    assert second.expected_start_time.isoformat() == "2042-03-02T23:00:00+00:00"
    assert first.parameters == {
        "tenant_id": batch.binding.tenant_id,
        "batch_id": "eod",
        "configured": {
            "tenantId": batch.binding.tenant_id,
            "batchId": "eod",
            "firstRunAt": "2042-03-01T23:00:00Z",
            "interval": "P1D",
            "maxRuns": 2,
            "upstreamWaitDuration": "PT15M",
            "replicationDelayDuration": "PT5M",
            "timeZone": None,
        },
    }


@pytest.mark.parametrize("written", [dict, json.dumps])
async def test_unknown_fields_are_kept_for_the_nights(batch: Batch, written: Any) -> None:
    fields = {"costCentre": "4711", "notes": ["a", {"b": 1}]}
    await batch.configure(additional_fields=written(fields))

    configured = (await batch.night(1)).parameters["configured"]
    assert json.loads(configured["additionalFields"]) == fields
    assert read_request(batch.binding, configured).model_extra == fields


async def test_a_token_typed_into_a_secret_block_by_hand_is_understood(batch: Batch) -> None:
    token = batch.sandbox.subject_token(batch.binding.tenant_id)
    await Secret(value=token).asave("caller-typed-by-hand", overwrite=True)

    state = await batch.configure(access_token_block="caller-typed-by-hand")

    assert state.is_completed(), state.message
    with pytest.raises(ValueError, match="caller-typed-by-hand"):
        await Secret.aload("caller-typed-by-hand")


SHORT_WAITS = {"upstream_wait_duration": "PT1S", "replication_delay_duration": "PT1S"}
REFUSED = [
    ({"tenant_id": ""}, "tenantId"),
    ({"tenant_id": None}, "tenantId"),
    ({"batch_id": "  "}, "batchId"),
    ({"first_run_at": "2042-03-01T23:00:00"}, "firstRunAt"),
    ({"first_run_at": "2020-03-01T23:00:00Z"}, "firstRunAt"),
    ({"interval": "daily"}, "interval"),
    ({"interval": "PT0S"}, "interval"),
    ({"interval": "PT59S", **SHORT_WAITS}, "interval"),
    ({"max_runs": 0}, "maxRuns"),
    ({"upstream_wait_duration": "-PT1M"}, "upstreamWaitDuration"),
    ({"replication_delay_duration": "soon"}, "replicationDelayDuration"),
    ({"interval": "PT20M"}, "upstreamWaitDuration"),
    ({"time_zone": "Europe/Atlantis"}, "timeZone"),
]


@pytest.mark.parametrize(("changed", "field"), REFUSED, ids=str)
async def test_a_refused_request_reaches_nobody_and_stores_nothing(
    batch: Batch, changed: dict[str, Any], field: str
) -> None:
    asked_before = batch.sandbox.events()

    state = await batch.configure(**changed)

    assert state.is_failed()
    assert state.message.startswith(f"{field} ")
    assert batch.sandbox.events() == asked_before
    assert not await batch.is_configured()
    assert not await batch.caller_token_is_stored()


async def test_every_field_at_fault_is_named_at_once(batch: Batch) -> None:
    state = await batch.configure(tenant_id="", interval="daily", max_runs=0)

    refused = [line.split(" ")[0] for line in state.message.splitlines()]
    assert refused == ["tenantId", "interval", "maxRuns"]


async def test_an_exchange_without_a_refresh_token_stores_nothing_and_says_so(batch: Batch) -> None:
    batch.sandbox.fault("token.exchange", "no_refresh_token", tenant_id=batch.binding.tenant_id)

    state = await batch.configure()

    assert state.is_failed()
    assert "no refresh token" in state.message
    assert not await batch.is_configured()
    assert not await batch.caller_token_is_stored()


async def test_a_refused_exchange_stores_nothing_and_says_what_to_check(batch: Batch) -> None:
    batch.sandbox.fault(
        "token.exchange",
        "status",
        tenant_id=batch.binding.tenant_id,
        status=400,
        body={"error": "invalid_request", "error_description": "subject token has expired"},
    )

    state = await batch.configure()

    assert state.is_failed()
    assert "subject token has expired" in state.message
    assert "check the caller's token" in state.message
    assert not await batch.is_configured()
    assert not await batch.caller_token_is_stored()


async def test_a_configuration_without_the_callers_token_says_to_hand_it_over(batch: Batch) -> None:
    state = await batch.configure(access_token_block="caller-nobody-saved-this")

    assert state.is_failed()
    assert "hand your access token over again" in state.message
    assert not await batch.is_configured()


async def test_a_prefect_that_blinks_does_not_hide_why_a_configuration_failed(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    discard = caller_token.discard
    answers = [httpx.ReadTimeout("Too slow.")]

    async def blinking(name: str) -> None:
        if answers:
            raise answers.pop()
        await discard(name)

    monkeypatch.setattr(caller_token, "discard", blinking)

    state = await batch.configure(interval="nightly")

    assert state.is_failed()
    assert state.message.startswith("interval")
    assert not await batch.caller_token_is_stored()


async def test_a_grant_that_prefect_could_not_store_at_first_is_stored_later_and_no_other_given(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, troubles = document.write, iter([httpx.ReadTimeout("away"), LockedError("locked")])

    async def late(*args: Any) -> None:
        for trouble in troubles:
            raise trouble
        await write(*args)

    monkeypatch.setattr(document, "write", late)
    assert (await batch.configure()).is_completed()
    assert len(batch.requests("token.exchange")) == 1
    assert batch.sandbox.live_grants(batch.binding.tenant_id) == 1


async def test_a_grant_that_prefect_refuses_to_store_is_revoked_and_the_configuration_fails(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Secret.asave

    async def refuse(block: Secret[str], name: str, **options: Any) -> None:
        if not name.startswith(grants.PREFIX):
            await save(block, name, **options)
            return
        request = httpx.Request("POST", "http://prefect/block_documents/")
        answer = httpx.Response(422, request=request)
        raise httpx.HTTPStatusError("refused", request=request, response=answer)

    monkeypatch.setattr(Secret, "asave", refuse)
    async with asyncio.timeout(30):
        state = await batch.configure()

    assert state.is_failed()
    assert "is not stored (Prefect answers 422)" in state.message
    assert batch.sandbox.live_grants(batch.binding.tenant_id) == 0
    assert not await batch.caller_token_is_stored()


async def test_without_the_template_nothing_is_left_and_configuring_again_heals(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(deployment, "TEMPLATE", "nobody-deployed-this")
        state = await batch.configure()

    assert state.is_failed()
    assert "prefect deploy --all" in state.message
    assert not await batch.is_configured()
    assert not await batch.caller_token_is_stored()
    assert batch.requests("revoke")[-1].status == 200

    assert (await batch.configure()).is_completed()
    assert await batch.is_configured()


async def test_a_schedule_that_prefect_refuses_leaves_nothing_and_configuring_again_heals(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(PrefectClient, "request", _unable_to_lay_out(PrefectClient.request))
        state = await batch.configure()

    assert state.is_failed()
    assert not await batch.is_configured()
    assert not await batch.caller_token_is_stored()
    assert batch.requests("revoke")[-1].status == 200

    assert (await batch.configure()).is_completed()
    assert len(await batch.nights()) == 3


async def test_a_schedule_that_cannot_be_changed_leaves_a_working_grant(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.configure()
    first = await batch.grant()
    with monkeypatch.context() as broken:
        broken.setattr(PrefectClient, "request", _unable_to_lay_out(PrefectClient.request))
        state = await batch.configure()

    assert state.is_failed()
    assert await batch.deployment()
    assert not await is_alive(first.refresh_token)
    assert await is_alive((await batch.grant()).refresh_token)


async def test_configuring_again_changes_the_schedule_in_place(batch: Batch) -> None:
    await batch.configure(max_runs=3)
    before = await batch.deployment()

    await batch.configure(first_run_at="2042-03-01T23:00:00Z", interval="PT6H", max_runs=2)

    after = await batch.deployment()
    assert after.id == before.id
    assert [schedule.id for schedule in after.schedules] == [before.schedules[0].id]
    assert after.parameters["configured"]["interval"] == "PT6H"
    assert [run.expected_start_time.isoformat() for run in await batch.nights()] == [
        "2042-03-01T23:00:00+00:00",
        "2042-03-02T05:00:00+00:00",
    ]


async def test_configuring_again_replaces_the_grant_and_revokes_the_old_one(batch: Batch) -> None:
    await batch.configure()
    old = await batch.grant()

    await batch.configure()

    new = await batch.grant()
    assert new.refresh_token != old.refresh_token
    assert not await is_alive(old.refresh_token)
    assert await is_alive(new.refresh_token)


async def test_an_old_grant_that_cannot_be_revoked_does_not_fail_the_configuration(
    batch: Batch,
) -> None:
    await batch.configure()
    batch.sandbox.fault(
        "revoke",
        "status",
        tenant_id=batch.binding.tenant_id,
        status=400,
        body={"error": "unsupported_token_type"},
    )

    assert (await batch.configure()).is_completed()


async def test_configurations_at_the_same_time_end_with_one_schedule_and_one_working_grant(
    batch: Batch,
) -> None:
    firsts = [f"2042-03-0{day}T23:00:00Z" for day in (1, 2, 3)]

    states = await asyncio.gather(*(batch.configure(first_run_at=first) for first in firsts))

    assert any(state.is_completed() for state in states)
    found = await batch.deployment()
    assert len(found.schedules) == 1
    scheduled = found.parameters["configured"]["firstRunAt"]
    assert (await batch.night(1)).expected_start_time.isoformat() == scheduled.replace(
        "Z", "+00:00"
    )
    assert await is_alive((await batch.grant()).refresh_token)


async def test_a_configuration_that_was_asked_for_earlier_never_replaces_a_later_one(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = clock.now()
    assert (await batch.configure(first_run_at="2042-03-02T23:00:00Z")).is_completed()
    grant = await batch.grant()
    # Its worker stood still meanwhile, and somebody goes on with it.
    monkeypatch.setattr("flows.configure._made_at", lambda: earlier)

    state = await batch.configure(first_run_at="2042-03-01T23:00:00Z")

    assert state.is_failed()
    assert "Superseded" in state.message
    assert "configured anew" in state.message
    assert await batch.grant() == grant
    found = await batch.deployment()
    assert found.parameters["configured"]["firstRunAt"] == "2042-03-02T23:00:00Z"
    assert len(batch.requests("token.exchange")) == 1


async def test_a_configuration_that_was_asked_for_before_the_binding_was_ended_changes_nothing(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await batch.configure()).is_completed()
    earlier = clock.now()
    await end(batch.binding)
    monkeypatch.setattr("flows.configure._made_at", lambda: earlier)

    state = await batch.configure()

    assert state.is_failed()
    assert "was ended" in state.message
    assert not await batch.is_configured()


async def test_a_configuration_whose_token_no_night_could_send_fails_at_once(batch: Batch) -> None:
    tenant = batch.binding.tenant_id
    for endpoint in ("token.exchange", "token.refresh"):
        batch.sandbox.fault(endpoint, "token_type", tenant_id=tenant, token_type="mac", count=9)

    state = await batch.configure()

    assert state.is_failed()
    assert "without giving an access token" in state.message
    assert not await batch.is_configured()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("Acme", "eod"), ("acme", "eod")),
        (("a-b", "c"), ("a", "b-c")),
        (("käse", "夜" * 200), ("k-se", "夜" * 199)),
    ],
    ids=["letter case", "dashes", "long, in other alphabets"],
)
async def test_tenants_whose_names_look_alike_do_not_reach_each_other(
    batches: Callable[..., Batch], one: tuple[str, str], other: tuple[str, str]
) -> None:
    first, second = (batches(Binding(*ids)) for ids in (one, other))
    for batch in (first, second):
        assert (await batch.configure()).is_completed()

    for batch in (first, second):
        configured = (await batch.deployment()).parameters
        assert configured["tenant_id"] == batch.binding.tenant_id
        assert configured["batch_id"] == batch.binding.batch_id
    assert (await first.grant()).refresh_token != (await second.grant()).refresh_token
    assert not first.requests("revoke")
    assert not second.requests("revoke")


def _unable_to_lay_out(request: Any) -> Any:
    async def refusing(
        client: PrefectHttpxAsyncClient, method: str, path: str, **options: Any
    ) -> httpx.Response:
        response = await request(client, method, path, **options)
        if path == "/deployments/{id}/schedule":
            response.status_code = 503
            response.raise_for_status()
        return response

    return refusing
