"""One night from its beginning to its recorded outcome, whatever happens in between."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventResourceFilter

from blocks import deployment, secret_blocks
from blocks.binding import Binding
from deployments.sandbox.client import SandboxClient
from deployments.sandbox.shapes import Endpoint
from tests.flows.batch import Batch, is_alive

DAY = timedelta(days=1)


async def test_a_night_run_twice_by_hand_is_closed_once(batch: Batch) -> None:
    await batch.configure_past()

    for _ in range(2):
        state = await batch.run_by_hand()
        assert state.is_completed(), state.message

    assert len(batch.closes()) == 1


async def test_a_night_run_by_schedule_and_then_by_hand_is_closed_once(batch: Batch) -> None:
    await batch.configure_past()

    assert (await batch.run_night()).state.is_completed()
    assert (await batch.run_by_hand()).is_completed()

    assert len(batch.closes()) == 1


async def test_a_night_run_by_schedule_and_by_hand_at_once_is_closed_once(batch: Batch) -> None:
    await batch.configure_past()

    run, state = await asyncio.gather(batch.run_night(), batch.run_by_hand())

    assert run.state.is_completed(), run.state.message
    assert state.is_completed(), state.message
    assert len(batch.closes()) == 1


async def test_a_night_started_from_the_template_uses_what_is_configured(batch: Batch) -> None:
    await batch.configure_past()
    async with get_client() as client:
        template = await deployment.read_template(client)
        ids = {"tenant_id": batch.binding.tenant_id, "batch_id": batch.binding.batch_id}
        run = await client.create_flow_run_from_deployment(template.id, parameters=ids)

    assert (await batch.wake(run)).state.is_completed()

    assert len(batch.closes()) == 1
    assert (await batch.context()).last_batch.run == 1


async def test_every_night_is_closed_with_a_refresh_of_its_own(batch: Batch) -> None:
    await batch.configure_past(first_due=timedelta(minutes=2), interval="PT1M")

    # Each night is over before the next is due.
    for number in (1, 2, 3):
        run = await batch.night(number)
        batch.clock.move_to(run.expected_start_time + timedelta(seconds=5))
        assert (await batch.wake(run)).state.is_completed()

    assert len(batch.closes()) == 3
    assert [event.status for event in batch.requests("token.refresh")] == [200, 200, 200]
    assert await batch.history() == {1: "CLOSED", 2: "CLOSED", 3: "CLOSED"}


async def test_a_closed_night_is_recorded_for_the_next_run_and_for_people(batch: Batch) -> None:
    await batch.configure_past()

    run = await batch.run_night()

    last = (await batch.context()).last_batch
    (close,) = batch.closes()
    assert (last.status, last.ok, last.reason) == ("CLOSED", True, None)
    assert (last.batch_id, last.occurrence) == ("eod", run.expected_start_time)
    assert (last.snapshot_id, last.closed_at) == (close.snapshot_id, close.closed_at)
    assert (last.run, last.max_runs) == (1, 3)
    assert await batch.history() == {1: "CLOSED"}
    assert run.name == f"{batch.binding} {run.expected_start_time:%Y-%m-%d}"


FAILURES = [
    ("orders.prepareSnapshot", {"kind": "status", "status": 403}, "permission granted"),
    ("orders.prepareSnapshot", {"kind": "missing_snapshot_id"}, "without a snapshotId"),
    ("orders.prepareSnapshot", {"kind": "ok_false"}, "ok"),
    ("orders.prepareSnapshot", {"kind": "status", "status": 503, "count": 9}, "attempt 5 of 5"),
    ("orders.close", {"kind": "status", "status": 422}, "422"),
    (
        "orders.close",
        {"kind": "status", "status": 409, "body": {"error": "already_closed"}},
        "find out who closed it",
    ),
    ("token.refresh", {"kind": "status", "status": 400, "body": "Bad Request"}, "OAuth server"),
]


@pytest.mark.parametrize(("endpoint", "fault", "reason"), FAILURES, ids=str)
async def test_a_night_that_fails_is_recorded_and_its_run_is_failed(
    batch: Batch, endpoint: Endpoint, fault: dict[str, Any], reason: str
) -> None:
    await batch.configure_past()
    batch.sandbox.fault(endpoint, tenant_id=batch.binding.tenant_id, **fault)

    run = await batch.run_night()

    last = (await batch.context()).last_batch
    assert (last.status, last.ok, last.run) == ("FAILED", False, 1)
    assert run.state.is_failed()
    assert run.state.message == last.reason
    assert reason in last.reason
    assert last.reason.endswith(".")
    assert "\n" not in last.reason
    assert await batch.history() == {1: "FAILED"}
    assert not batch.closes()
    assert not await batch.is_paused()


@pytest.mark.parametrize("how", ["retried in the UI", "run by hand"])
async def test_a_failed_night_run_again_closes_the_same_snapshot(batch: Batch, how: str) -> None:
    await batch.configure_past()
    batch.sandbox.fault("orders.close", "status", tenant_id=batch.binding.tenant_id, status=403)
    run = await batch.run_night()
    first = (await batch.context()).last_batch.snapshot_id

    if how == "run by hand":
        assert (await batch.run_by_hand()).is_completed()
    else:
        assert (await batch.wake(run)).state.is_completed()

    assert len(batch.requests("orders.prepareSnapshot")) == 1
    assert [close.snapshot_id for close in batch.closes()] == [first]
    assert len(batch.requests("token.refresh")) == 1
    assert await batch.history() == {1: "CLOSED"}


@pytest.mark.parametrize("endpoint", ["orders.prepareSnapshot", "orders.close"])
async def test_a_request_whose_answer_is_lost_is_repeated_and_done_once(
    batch: Batch, endpoint: Endpoint
) -> None:
    await batch.configure_past()
    batch.sandbox.fault(endpoint, "reset_after", tenant_id=batch.binding.tenant_id)

    assert (await batch.run_night()).state.is_completed()

    assert len(batch.requests(endpoint)) == 2
    assert len(batch.closes()) == 1


async def test_a_close_whose_answers_were_all_lost_is_recognised_as_our_own_later(
    batch: Batch,
) -> None:
    await batch.configure_past()
    batch.sandbox.fault("orders.close", "reset_after", tenant_id=batch.binding.tenant_id)
    batch.sandbox.fault("orders.close", "reset_before", tenant_id=batch.binding.tenant_id, count=4)
    run = await batch.run_night()
    assert run.state.is_failed()
    batch.sandbox.fault(
        "orders.close",
        "status",
        tenant_id=batch.binding.tenant_id,
        status=409,
        body={"error": "already_closed"},
    )

    assert (await batch.wake(run)).state.is_completed()

    assert len(batch.closes()) == 1
    assert (await batch.context()).last_batch.status == "CLOSED"


async def test_an_access_token_that_dies_during_the_night_is_refreshed_once(batch: Batch) -> None:
    await batch.configure_past()
    batch.sandbox.fault(
        "orders.close",
        "status",
        tenant_id=batch.binding.tenant_id,
        status=401,
        body={"error": "invalid_token"},
    )

    assert (await batch.run_night()).state.is_completed()

    assert len(batch.requests("token.refresh")) == 2
    assert [event.status for event in batch.requests("orders.close")] == [401, 200]


async def test_orders_that_refuse_fresh_tokens_too_are_not_asked_for_ever(
    batch: Batch,
) -> None:
    await batch.configure_past()
    batch.sandbox.fault(
        "orders.close", "status", tenant_id=batch.binding.tenant_id, status=401, count=9
    )

    assert (await batch.run_night()).state.is_failed()

    assert len(batch.requests("token.refresh")) == 2
    assert len(batch.requests("orders.close")) == 2


async def test_the_rotated_token_is_stored_before_the_orders_api_is_asked(batch: Batch) -> None:
    await batch.configure_past()
    before = await batch.grant()
    batch.sandbox.fault(
        "orders.prepareSnapshot", "status", tenant_id=batch.binding.tenant_id, status=403
    )

    assert (await batch.run_night()).state.is_failed()

    assert (await batch.grant()).refresh_token != before.refresh_token
    batch.sandbox.expire_access_tokens()
    assert (await batch.run_by_hand()).is_completed()
    assert not [event for event in batch.requests("token.refresh") if event.status != 200]


async def test_a_refresh_whose_reply_is_lost_loses_a_grant_that_rotates_strictly(
    batch: Batch,
) -> None:
    await batch.configure_past()
    batch.sandbox.fault("token.refresh", "reset_after", tenant_id=batch.binding.tenant_id)

    run = await batch.run_night()

    last = (await batch.context()).last_batch
    assert run.state.is_failed()
    assert last.status == "FAILED"
    assert "configure this batch again" in last.reason
    assert await batch.is_paused()
    assert await _reasons_of_lost_grants(batch) == [last.reason]


async def test_a_lost_grant_is_not_presented_again_and_configuring_again_heals_it(
    batch: Batch,
) -> None:
    await batch.configure_past()
    batch.sandbox.fault("token.refresh", "reset_after", tenant_id=batch.binding.tenant_id)
    run = await batch.run_night()
    asked = batch.requests("token.refresh")

    assert (await batch.wake(run)).state.is_failed()
    assert (await batch.run_by_hand()).is_failed()
    assert batch.requests("token.refresh") == asked

    assert (await batch.configure()).is_completed()
    assert not await batch.is_paused()
    assert (await batch.wake(run)).state.is_completed()
    assert len(batch.closes()) == 1


async def test_a_refresh_whose_reply_is_lost_costs_nothing_where_repeating_is_forgiven(
    forgiving_sandbox: SandboxClient, batches: Callable[..., Batch], binding: Binding
) -> None:
    batch = batches(binding, forgiving_sandbox)
    await batch.configure_past()
    forgiving_sandbox.fault("token.refresh", "reset_after", tenant_id=binding.tenant_id)

    assert (await batch.run_night()).state.is_completed()

    assert len(batch.closes()) == 1
    assert forgiving_sandbox.verdict().reuse == 0


async def test_a_client_that_the_oauth_server_refuses_does_not_lose_its_grants(
    batch: Batch,
) -> None:
    await batch.configure_past()
    batch.sandbox.fault(
        "token.refresh",
        "status",
        tenant_id=batch.binding.tenant_id,
        status=401,
        body={"error": "invalid_client"},
    )

    run = await batch.run_night()

    assert run.state.is_failed()
    assert "check client_id" in run.state.message
    assert (await batch.grant()).lost_because is None
    assert not await batch.is_paused()
    assert (await batch.run_by_hand()).is_completed()


async def test_a_refresh_without_a_new_refresh_token_keeps_the_old_one(batch: Batch) -> None:
    await batch.configure_past()
    before = await batch.grant()
    batch.sandbox.fault("token.refresh", "no_refresh_token", tenant_id=batch.binding.tenant_id)

    assert (await batch.run_night()).state.is_completed()

    after = await batch.grant()
    assert after.refresh_token == before.refresh_token
    assert after.access_token != before.access_token


async def test_a_run_that_comes_when_the_next_night_is_due_is_skipped(batch: Batch) -> None:
    await batch.configure_past()
    run = await batch.night(1)
    batch.clock.move_to(run.expected_start_time + DAY)

    run = await batch.wake(run)

    assert (run.state.type, run.state.name) == ("COMPLETED", "Skipped")
    last = (await batch.context()).last_batch
    assert (last.status, last.ok, last.run) == ("SKIPPED", False, 1)
    assert await batch.history() == {1: "SKIPPED"}
    assert not batch.closes()
    assert not batch.requests("token.refresh")


async def test_nights_that_no_run_came_to_are_shown_as_skipped(batch: Batch) -> None:
    await batch.configure_past(first_due=2 * DAY + timedelta(minutes=1), max_runs=5)
    async with get_client() as client:
        for number in (2, 1):
            await client.delete_flow_run((await batch.night(number)).id)

    assert (await batch.run_night(1)).state.is_completed()

    assert await batch.history() == {1: "SKIPPED", 2: "SKIPPED", 3: "CLOSED"}
    assert len(batch.closes()) == 1


async def test_an_earlier_night_that_ends_later_does_not_hide_the_latest(batch: Batch) -> None:
    await batch.configure_past(first_due=DAY + timedelta(minutes=1))
    await batch.run_night(2)

    assert (await batch.run_night(1)).state.name == "Skipped"

    assert (await batch.context()).last_batch.run == 2
    assert await batch.history() == {1: "SKIPPED", 2: "CLOSED"}


async def test_the_last_night_cleans_up_and_keeps_its_outcome(batch: Batch) -> None:
    await batch.configure_past(max_runs=1)
    batch.sandbox.fault("token.refresh", "no_refresh_token", tenant_id=batch.binding.tenant_id)
    grant = await batch.grant()

    assert (await batch.run_night()).state.is_completed()

    assert await batch.is_paused()
    assert await batch.grant() is None
    assert not await is_alive(grant.refresh_token)
    last = (await batch.context()).last_batch
    assert (last.status, last.run, last.max_runs) == ("CLOSED", 1, 1)
    assert await batch.history() == {1: "CLOSED"}
    assert (await batch.run_by_hand()).is_completed()
    assert len(batch.closes()) == 1


async def test_a_failed_last_night_keeps_its_grant_until_it_is_closed(batch: Batch) -> None:
    await batch.configure_past(max_runs=1)
    batch.sandbox.fault("orders.close", "status", tenant_id=batch.binding.tenant_id, status=403)
    assert (await batch.run_night()).state.is_failed()
    assert await batch.is_paused()
    assert await batch.grant()

    assert (await batch.run_by_hand()).is_completed()
    assert await batch.grant() is None
    assert len(batch.closes()) == 1


async def test_a_last_night_does_not_end_what_was_configured_meanwhile(batch: Batch) -> None:
    await batch.configure_past(max_runs=1)
    run = await batch.night(1)
    batch.sandbox.fault("orders.close", "status", tenant_id=batch.binding.tenant_id, status=403)
    run = await batch.wake(run)
    assert (await batch.configure()).is_completed()

    assert (await batch.wake(run)).state.is_completed()

    assert len(batch.closes()) == 1
    assert await batch.grant()
    assert not await batch.is_paused()
    assert len([run for run in await batch.nights() if run.state.is_scheduled()]) == 3


async def test_before_the_first_night_a_run_by_hand_says_that_nothing_is_due(batch: Batch) -> None:
    await batch.configure()

    state = await batch.run_by_hand()

    assert state.is_failed()
    assert "Nothing is due" in state.message
    assert not batch.requests("token.refresh")


async def test_a_batch_that_nobody_configured_says_so(batch: Batch) -> None:
    state = await batch.run_by_hand()

    assert state.is_failed()
    assert state.message == f"{batch.binding} is not configured: run the configure flow first."


async def test_a_night_without_a_grant_says_to_configure_again(batch: Batch) -> None:
    await batch.configure_past()
    stored = await secret_blocks.find(f"grant-{batch.binding.slug}")
    assert stored
    await secret_blocks.delete(stored.id)  # as somebody does

    run = await batch.run_night()

    assert run.state.is_failed()
    assert "configure it (again)" in run.state.message
    assert (await batch.context()).last_batch.reason == run.state.message


async def _reasons_of_lost_grants(batch: Batch) -> list[str]:
    """What the events say that an operator's automation would be triggered by."""
    resource = f"daily-orders-batch-close.binding.{batch.binding.slug}"
    wanted = EventFilter(resource=EventResourceFilter(id=[resource]))
    async with get_client() as client:
        async with asyncio.timeout(10):
            while not (page := await client.read_events(wanted, limit=10)).events:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    assert {event.event for event in page.events} == {"daily-orders-batch-close.grant.lost"}
    return [event.payload["reason"] for event in page.events]
