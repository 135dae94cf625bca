"""The sandbox over a real socket: what its servers answer and what its ledger makes of it."""

import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import quote_plus

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from deployments.sandbox.client import SandboxClient
from deployments.sandbox.serving import running_sandbox
from deployments.sandbox.settings import Rotation, SandboxSettings
from deployments.sandbox.shapes import Endpoint, FaultKind

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ELEVEN_PM = datetime(2026, 3, 1, 23, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


class HandClock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = ELEVEN_PM - DAY

    def __call__(self) -> datetime:
        """The moment it shows."""
        return self.now


class Caller(SandboxClient):
    """The client under the sandbox's eyes: plain requests, no cleverness."""

    def __init__(self, url: str, clock: HandClock, process: str = "") -> None:
        super().__init__(url)
        self.url = url
        self.clock = clock
        agent = {"User-Agent": f"daily-orders-batch-close/0.1.0 (process {process})"}
        self.http = httpx.Client(base_url=url, trust_env=False, headers=agent if process else {})
        self.basic = ("batch-close", "sandbox-secret")

    def token(self, form: dict[str, str], **options: Any) -> httpx.Response:
        """Posts a form to the token endpoint; `auth=None` leaves the Basic credentials out."""
        options = {"auth": self.basic, **options}
        return self.http.post("/oauth/token", data=form, **options)

    def exchange(self, tenant: str = "acme") -> httpx.Response:
        """Exchanges a fresh caller token of the tenant."""
        return self.token(
            {
                "grant_type": EXCHANGE,
                "subject_token": self.subject_token(tenant),
                "subject_token_type": ACCESS_TOKEN,
            }
        )

    def refresh(self, refresh_token: str, **options: Any) -> httpx.Response:
        """Presents a refresh token."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return self.token(form, **options)

    def orders(
        self, operation: str, access_token: str, key: str | None, **body: str
    ) -> httpx.Response:
        """Calls an operation of the Orders API for acme's daily batch."""
        headers = {"Authorization": f"Bearer {access_token}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        body = {"tenantId": "acme", "batchId": "daily"} | body
        return self.http.post(f"/orders/batches/{operation}", json=body, headers=headers)

    def snapshot(self, access_token: str, key: str) -> str:
        """Prepares a snapshot and gives its id."""
        reply = self.orders("prepareSnapshot", access_token, key)
        return str(reply.raise_for_status().json()["snapshotId"])

    def close(self, access_token: str, key: str, snapshot_id: str) -> httpx.Response:
        """Closes the batch as the snapshot has it."""
        return self.orders("close", access_token, key, snapshotId=snapshot_id)


@contextmanager
def started(**settings: Any) -> Iterator[Caller]:
    clock = HandClock()
    running = running_sandbox(SandboxSettings(**settings), clock)
    with running as url, Caller(url, clock) as caller, caller.http:
        yield caller


@contextmanager
def process_beside(caller: Caller, name: str) -> Iterator[Caller]:
    with Caller(caller.url, caller.clock, name * 32) as process, process.http:
        yield process


@pytest.fixture(scope="module")
def shared() -> Iterator[Caller]:
    with started() as caller:
        yield caller


@pytest.fixture
def caller(shared: Caller) -> Iterator[Caller]:
    """A strict sandbox; tests of what it counts start one of their own."""
    yield shared
    shared.clear_faults()


@pytest.fixture
def access_token(caller: Caller) -> str:
    return str(caller.exchange().json()["access_token"])


# The OAuth server


def test_the_metadata_names_the_base_url_as_issuer_and_both_grants(caller: Caller) -> None:
    metadata = caller.http.get("/.well-known/oauth-authorization-server").json()
    assert metadata["issuer"] == caller.url
    assert metadata["token_endpoint"] == f"{caller.url}/oauth/token"
    assert metadata["grant_types_supported"] == [EXCHANGE, "refresh_token"]


def test_an_exchange_gives_an_access_token_with_a_refresh_token_beside_it(caller: Caller) -> None:
    reply = caller.exchange()
    body = reply.json()
    assert reply.headers["Cache-Control"] == "no-store"
    assert body.pop("access_token").startswith("at-")
    assert body.pop("refresh_token").startswith("rt-")
    assert body == {"token_type": "Bearer", "expires_in": 300, "issued_token_type": ACCESS_TOKEN}


def test_an_exchange_may_put_the_refresh_token_in_the_access_tokens_place() -> None:
    with started(exchange_style="as_access_token") as caller:
        body = caller.exchange().json()
        assert body["token_type"] == "N_A"
        assert body["issued_token_type"].endswith(":refresh_token")
        assert caller.refresh(body["access_token"]).status_code == 200


def test_an_exchange_may_give_no_refresh_token_at_all() -> None:
    with started(exchange_style="none") as caller:
        assert "refresh_token" not in caller.exchange().json()


def test_a_subject_token_of_unknown_origin_is_an_invalid_request(caller: Caller) -> None:
    form = {"grant_type": EXCHANGE, "subject_token": "x", "subject_token_type": ACCESS_TOKEN}
    reply = caller.token(form)
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_request")


def test_a_form_member_sent_twice_counts_as_absent(caller: Caller) -> None:
    refresh_token = caller.exchange().json()["refresh_token"]
    form: Any = {"grant_type": "refresh_token", "refresh_token": [refresh_token, refresh_token]}
    reply = caller.token(form)
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_request")


def test_an_unknown_grant_type_is_refused(caller: Caller) -> None:
    assert caller.token({"grant_type": "password"}).json() == {"error": "unsupported_grant_type"}


def test_presenting_a_consumed_refresh_token_revokes_the_whole_family() -> None:
    with started() as caller:
        first = caller.exchange().json()
        second = caller.refresh(first["refresh_token"]).json()
        reused = caller.refresh(first["refresh_token"])
        assert (reused.status_code, reused.json()["error"]) == (400, "invalid_grant")
        assert caller.refresh(second["refresh_token"]).json() == {"error": "invalid_grant"}
        orders = caller.orders("prepareSnapshot", second["access_token"], "k")
        assert orders.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
        verdict = caller.verdict()
        assert (verdict.configured, verdict.refreshed, verdict.reuse) == (1, 1, 1)


def test_a_grace_window_gives_another_successor_until_it_ends() -> None:
    with started(rotation="grace", grace_seconds=10) as caller:
        first = caller.exchange().json()["refresh_token"]
        second = caller.refresh(first).json()["refresh_token"]
        caller.clock.now += timedelta(seconds=9)
        third = caller.refresh(first).json()["refresh_token"]
        assert len({first, second, third}) == 3
        caller.clock.now += timedelta(seconds=1)
        assert caller.refresh(first).status_code == 400
        assert caller.refresh(third).status_code == 400
        assert caller.verdict().reuse == 1


def test_without_rotation_the_refresh_token_stays_and_is_not_repeated() -> None:
    with started(rotation="none") as caller:
        refresh_token = caller.exchange().json()["refresh_token"]
        assert "refresh_token" not in caller.refresh(refresh_token).json()
        assert caller.refresh(refresh_token).status_code == 200


def test_revoking_a_refresh_token_ends_its_access_tokens_and_an_unknown_token_is_fine(
    caller: Caller,
) -> None:
    granted = caller.exchange().json()
    for token in granted["refresh_token"], "unknown":
        reply = caller.http.post("/oauth/revoke", data={"token": token}, auth=caller.basic)
        assert reply.status_code == 200
    assert caller.refresh(granted["refresh_token"]).json() == {"error": "invalid_grant"}
    assert caller.orders("prepareSnapshot", granted["access_token"], "k").status_code == 401


# Client authentication


def test_basic_credentials_are_form_urlencoded_before_base64() -> None:
    with started(client_id="a:b", client_secret="p%+ &") as caller:
        pair = f"{quote_plus('a:b')}:{quote_plus('p%+ &')}"
        headers = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
        refused = caller.refresh("x", auth=("a:b", "p%+ &"))
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic")
        assert caller.refresh("x", auth=None, headers=headers).json() == {"error": "invalid_grant"}


def test_a_secret_may_come_in_the_form_but_not_in_both_places(caller: Caller) -> None:
    form = {"grant_type": "refresh_token", "refresh_token": "x", "client_id": "batch-close"}
    right = form | {"client_secret": "sandbox-secret"}
    assert caller.token(right, auth=None).json()["error"] == "invalid_grant"
    assert caller.token(form | {"client_secret": "no"}, auth=None).status_code == 401
    assert caller.token(right).json()["error"] == "invalid_request"
    assert caller.token(form, auth=None).json()["error"] == "invalid_client"


def test_a_method_that_is_not_accepted_is_refused() -> None:
    with started(client_auth=("client_secret_post",)) as caller:
        assert caller.refresh("x").status_code == 401


def test_a_signed_assertion_lets_the_client_in_once() -> None:
    key = ECKey.generate_key("P-256")
    with started(client_public_jwk=key.as_dict(private=False)) as caller:

        def answer(jti: str, signer: ECKey = key, **claims: object) -> object:
            expires = int(caller.clock.now.timestamp()) + 60
            stated: dict[str, Any] = {"iss": "batch-close", "sub": "batch-close", "exp": expires}
            stated |= {"aud": caller.url, "jti": jti} | claims
            form = {"grant_type": "refresh_token", "refresh_token": "x"}
            form |= {"client_assertion_type": ASSERTION}
            form["client_assertion"] = jwt.encode({"alg": "ES256"}, stated, signer)
            return caller.token(form, auth=None).json()["error"]

        assert answer("1") == "invalid_grant"
        assert answer("1") == "invalid_client"
        assert answer("2", aud=f"{caller.url}/oauth/token") == "invalid_grant"
        assert answer("3", aud="http://elsewhere.invalid") == "invalid_client"
        assert answer("4", sub="somebody") == "invalid_client"
        assert answer("5", exp=int(caller.clock.now.timestamp())) == "invalid_client"
        assert answer("6", signer=ECKey.generate_key("P-256")) == "invalid_client"


def test_the_operator_sees_how_many_grants_of_a_tenant_live(caller: Caller) -> None:
    tenant = "who-counts"
    tokens = [caller.exchange(tenant).json()["refresh_token"] for _ in range(3)]
    assert caller.live_grants(tenant) == 3
    caller.refresh(tokens[0])
    assert caller.live_grants(tenant) == 3
    caller.http.post("/oauth/revoke", data={"token": tokens[0]}, auth=caller.basic)
    assert caller.live_grants(tenant) == 2
    assert caller.live_grants("nobody") == 0


# The Orders API


def test_a_batch_is_closed_with_its_snapshot(caller: Caller, access_token: str) -> None:
    snapshot_id = caller.snapshot(access_token, "night-1-snapshot")
    reply = caller.close(access_token, "night-1-close", snapshot_id)
    assert reply.json() == {"ok": True, "closedAt": caller.clock.now.isoformat()}


def test_an_access_token_ends_with_its_life(caller: Caller, access_token: str) -> None:
    caller.clock.now += timedelta(seconds=299)
    assert caller.orders("prepareSnapshot", access_token, "life-1").status_code == 200
    caller.clock.now += timedelta(seconds=1)
    assert caller.orders("prepareSnapshot", access_token, "life-2").status_code == 401


def test_the_operator_may_expire_every_access_token(caller: Caller, access_token: str) -> None:
    caller.expire_access_tokens()
    assert caller.orders("prepareSnapshot", access_token, "expired").status_code == 401


def test_a_token_of_another_tenant_has_insufficient_scope(caller: Caller) -> None:
    access_token = caller.exchange("other").json()["access_token"]
    reply = caller.orders("prepareSnapshot", access_token, "k")
    assert reply.status_code == 403
    assert reply.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope"'


def test_without_an_idempotency_key_nothing_is_done(caller: Caller, access_token: str) -> None:
    for key in None, '"unfinished':
        assert caller.orders("prepareSnapshot", access_token, key).status_code == 400


def test_the_same_key_and_payload_replay_the_first_reply_quoted_or_bare(
    caller: Caller, access_token: str
) -> None:
    assert caller.snapshot(access_token, "again") == caller.snapshot(access_token, '"again"')


def test_the_same_key_with_another_payload_is_refused(caller: Caller, access_token: str) -> None:
    snapshot_id = caller.snapshot(access_token, "twofold")
    other = caller.orders("prepareSnapshot", access_token, "twofold", batchId="other")
    assert other.status_code == 422
    assert caller.close(access_token, "twofold", snapshot_id).status_code == 422


def test_the_same_key_while_the_first_request_runs_is_in_progress(
    caller: Caller, access_token: str
) -> None:
    caller.fault("orders.prepareSnapshot", "slow", seconds=0.3)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(caller.snapshot, access_token, "slow")
        time.sleep(0.15)
        second = caller.orders("prepareSnapshot", access_token, "slow")
    assert (second.status_code, second.json()["error"]) == (409, "request_in_progress")
    assert caller.snapshot(access_token, "slow") == first.result()


def test_a_snapshot_is_closed_once_and_only_if_it_is_known(
    caller: Caller, access_token: str
) -> None:
    snapshot_id = caller.snapshot(access_token, "once-snapshot")
    assert caller.close(access_token, "once-1", snapshot_id).status_code == 200
    again = caller.close(access_token, "once-2", snapshot_id)
    assert (again.status_code, again.json()) == (409, {"error": "already_closed"})
    assert caller.close(access_token, "once-3", "snapshot-of-nobody").status_code == 404


# The ledger


@pytest.fixture
def planned() -> Iterator[Caller]:
    with started(access_token_seconds=10 * 86_400) as caller:
        caller.plan(
            "acme",
            "daily",
            [ELEVEN_PM + night * DAY for night in range(3)],
            upstream_wait=15 * MINUTE,
            replication_delay=5 * MINUTE,
        )
        yield caller


def close_at(caller: Caller, moment: datetime, token: str, *, delay: timedelta) -> None:
    caller.clock.now = moment
    snapshot_id = caller.snapshot(token, f"snapshot {moment}")
    caller.clock.now += delay
    caller.close(token, f"close {moment}", snapshot_id).raise_for_status()


def test_closes_on_time_are_judged_innocent_and_listed_by_night(planned: Caller) -> None:
    token = planned.exchange().json()["access_token"]
    for night in range(3):
        due = ELEVEN_PM + night * DAY + 15 * MINUTE
        close_at(planned, due, token, delay=5 * MINUTE)
    verdict = planned.verdict()
    assert (verdict.closed, verdict.double_close, verdict.early) == (3, 0, 0)
    occurrences = [close.occurrence for close in planned.closes("acme", "daily")]
    assert occurrences == [ELEVEN_PM + night * DAY for night in range(3)]


@pytest.mark.parametrize(
    ("snapshot", "delay"),
    [
        (ELEVEN_PM - MINUTE, 5 * MINUTE),
        (ELEVEN_PM + 14 * MINUTE, 5 * MINUTE),
        (ELEVEN_PM + 15 * MINUTE, 4 * MINUTE),
    ],
    ids=["before the first night", "before upstream is done", "before replication is done"],
)
def test_work_before_its_due_moment_is_early(
    planned: Caller, snapshot: datetime, delay: timedelta
) -> None:
    close_at(planned, snapshot, planned.exchange().json()["access_token"], delay=delay)
    assert planned.verdict().early == 1


def test_two_snapshots_closed_in_one_night_are_a_double_close(planned: Caller) -> None:
    token = planned.exchange().json()["access_token"]
    for due in ELEVEN_PM + 15 * MINUTE, ELEVEN_PM + 30 * MINUTE:
        close_at(planned, due, token, delay=5 * MINUTE)
    assert planned.verdict().double_close == 1


def test_without_a_plan_closes_are_counted_but_not_judged() -> None:
    with started() as caller:
        token = caller.exchange().json()["access_token"]
        for minute in range(2):
            close_at(caller, ELEVEN_PM - DAY + minute * MINUTE, token, delay=timedelta())
        verdict = caller.verdict()
        assert (verdict.closed, verdict.double_close, verdict.early) == (2, 0, 0)


def test_events_tell_what_was_answered_and_never_a_token() -> None:
    with started(events_kept=3) as caller:
        granted = caller.exchange().json()
        caller.fault("token.refresh", "reset_before", tenant_id="acme")
        with pytest.raises(httpx.ReadError):
            caller.refresh(granted["refresh_token"])
        caller.orders("prepareSnapshot", granted["access_token"], "k")
        caller.orders("prepareSnapshot", "unknown", "k")
        events = caller.events()
        assert [event.number for event in events] == [2, 3, 4]
        assert [event.status for event in events] == [None, 200, 401]
        assert [event.error for event in events] == [None, None, "invalid_token"]
        assert (events[0].kind, events[0].fault) == ("token.refresh", "reset_before")
        assert [event.number for event in caller.events(after=3)] == [4]
        everything = str(caller.events())
        assert not any(prefix in everything for prefix in ("at-", "rt-", "st-"))


# Which process works on what


@pytest.fixture
def night(planned: Caller) -> Iterator[tuple[Caller, Caller, str]]:
    """Two processes, when the first night's snapshot is due, and an access token."""
    planned.clock.now = ELEVEN_PM + 15 * MINUTE
    token = str(planned.exchange().json()["access_token"])
    with process_beside(planned, "a") as first, process_beside(planned, "b") as second:
        yield first, second, token


@contextmanager
def during(slow: Callable[[], object], endpoint: Endpoint, caller: Caller) -> Iterator[None]:
    """The block runs while the slow request is being answered."""
    caller.fault(endpoint, "slow", seconds=0.4)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(slow)
        time.sleep(0.15)
        yield
        asked.result()


def test_an_event_tells_which_process_asked() -> None:
    with started() as caller, process_beside(caller, "a") as process:
        process.refresh("x")
        caller.refresh("x")
        assert [event.process for event in caller.events()] == ["a" * 32, None]


@pytest.mark.parametrize("operation", ["prepareSnapshot", "close"])
def test_two_processes_that_ask_for_one_night_at_the_same_moment_overlap(
    night: tuple[Caller, Caller, str], operation: Literal["prepareSnapshot", "close"]
) -> None:
    first, second, token = night
    endpoint: Endpoint = f"orders.{operation}"  # type: ignore[assignment]
    body = {"snapshotId": "x"} if operation == "close" else {}
    with during(lambda: first.orders(operation, token, "k", **body), endpoint, first):
        second.snapshot(token, "snapshot")
    assert first.verdict().overlapping == 1


def test_two_processes_that_refresh_one_grant_at_the_same_moment_overlap() -> None:
    with started() as caller, process_beside(caller, "a") as first:
        with process_beside(caller, "b") as second:
            token = caller.exchange().json()["refresh_token"]
            with during(lambda: first.refresh(token), "token.refresh", caller):
                second.refresh(token)
        assert caller.verdict().overlapping == 1


def test_a_refresh_of_another_grant_of_the_tenant_does_not_overlap() -> None:
    with started() as caller, process_beside(caller, "a") as first:
        with process_beside(caller, "b") as second:
            mine, other = (caller.exchange().json()["refresh_token"] for _ in range(2))
            with during(lambda: first.refresh(mine), "token.refresh", caller):
                second.refresh(other)
        assert caller.verdict().overlapping == 0


def test_two_processes_that_exchange_one_callers_token_at_the_same_moment_overlap() -> None:
    with started() as caller, process_beside(caller, "a") as first:
        with process_beside(caller, "b") as second:
            form = {"grant_type": EXCHANGE, "subject_token_type": ACCESS_TOKEN}
            form["subject_token"] = caller.subject_token("acme")
            with during(lambda: first.token(form), "token.exchange", caller):
                second.token(form)
        assert caller.verdict().overlapping == 1


def test_a_process_that_goes_on_with_a_night_that_was_taken_over_overlaps_once(
    night: tuple[Caller, Caller, str],
) -> None:
    first, second, token = night
    for process in first, second, first, second:
        process.snapshot(token, "snapshot")
    assert first.verdict().overlapping == 1


def test_a_night_that_comes_back_after_the_other_was_killed_at_its_next_step_does_not_overlap(
    night: tuple[Caller, Caller, str],
) -> None:
    first, second, token = night
    snapshot_id = first.snapshot(token, "snapshot")
    first.clock.now += 5 * MINUTE
    for process in second, first:
        process.close(token, "close", snapshot_id).raise_for_status()
    assert first.verdict().overlapping == 0


def test_a_night_taken_over_after_a_kill_does_not_overlap_with_what_the_dead_one_asked(
    night: tuple[Caller, Caller, str],
) -> None:
    first, second, token = night
    first.fault("orders.prepareSnapshot", "slow", seconds=1)
    with pytest.raises(httpx.ReadTimeout):
        first.http.post(
            "/orders/batches/prepareSnapshot",
            json={"tenantId": "acme", "batchId": "daily"},
            headers={"Authorization": f"Bearer {token}", "Idempotency-Key": "snapshot"},
            timeout=0.2,
        )
    time.sleep(0.2)
    still_held = second.orders("prepareSnapshot", token, "snapshot")
    assert still_held.status_code == 409
    assert first.verdict().overlapping == 0


def test_a_night_closed_by_hand_while_the_scheduled_run_only_waits_does_not_overlap(
    night: tuple[Caller, Caller, str],
) -> None:
    waiting, by_hand, token = night
    snapshot_id = waiting.snapshot(token, "snapshot")
    waiting.clock.now += 5 * MINUTE
    by_hand.close(token, "close", snapshot_id).raise_for_status()
    assert waiting.verdict().overlapping == 0


def test_a_process_that_repeats_its_own_request_does_not_overlap(
    night: tuple[Caller, Caller, str],
) -> None:
    process, _, token = night
    with during(lambda: process.snapshot(token, "k"), "orders.prepareSnapshot", process):
        process.orders("prepareSnapshot", token, "k")
    assert process.verdict().overlapping == 0


def test_processes_that_take_turns_by_the_night_do_not_overlap(
    night: tuple[Caller, Caller, str],
) -> None:
    first, second, token = night
    for process in first, second, first:
        close_at(process, process.clock.now, token, delay=5 * MINUTE)
        process.clock.now += DAY
    assert first.verdict().overlapping == 0


def test_who_says_no_process_or_has_no_plan_is_not_judged(
    night: tuple[Caller, Caller, str], planned: Caller
) -> None:
    first, second, token = night
    with during(lambda: first.snapshot(token, "k"), "orders.prepareSnapshot", first):
        planned.orders("prepareSnapshot", token, "other key")
        second.orders("prepareSnapshot", token, "unplanned", batchId="unplanned")
    assert first.verdict().overlapping == 0


# Refresh tokens presented twice


@pytest.mark.parametrize("rotation", ["strict", "grace"])
def test_a_replaced_refresh_token_from_another_process_is_presented_twice(
    rotation: Rotation,
) -> None:
    with started(rotation=rotation) as caller, process_beside(caller, "a") as first:
        token = caller.exchange().json()["refresh_token"]
        first.refresh(token)
        with process_beside(caller, "b") as second:
            second.refresh(token)
        assert caller.verdict().presented_twice == 1


@pytest.mark.parametrize(("seconds", "counted"), [(59, 0), (60, 1)])
def test_a_process_may_repeat_a_refresh_whose_reply_was_lost_within_a_minute(
    seconds: int, counted: int
) -> None:
    with started() as caller, process_beside(caller, "a") as process:
        token = caller.exchange().json()["refresh_token"]
        caller.fault("token.refresh", "reset_after")
        with pytest.raises(httpx.ReadError):
            process.refresh(token)
        caller.clock.now += timedelta(seconds=seconds)
        process.refresh(token)
        assert caller.verdict().presented_twice == counted


def test_a_refresh_token_that_was_not_replaced_is_not_presented_twice() -> None:
    with started(rotation="none") as caller, process_beside(caller, "a") as first:
        token = caller.exchange().json()["refresh_token"]
        caller.fault("token.refresh", "status")
        for _ in range(2):
            first.refresh(token)
        with process_beside(caller, "b") as second:
            second.refresh(token)
        assert caller.verdict().presented_twice == 0


# Faults


@pytest.mark.parametrize("kind", ["reset_before", "reset_after", "cut_body"])
def test_a_broken_connection_is_seen_as_one_by_the_client(kind: FaultKind) -> None:
    with started() as caller:
        refresh_token = caller.exchange().json()["refresh_token"]
        caller.fault("token.refresh", kind)
        expected = httpx.RemoteProtocolError if kind == "cut_body" else httpx.ReadError
        with pytest.raises(expected):
            caller.refresh(refresh_token)
        done = kind != "reset_before"
        assert caller.verdict().refreshed == done
        assert caller.refresh(refresh_token).status_code == (400 if done else 200)


def test_a_lost_close_took_effect_and_its_key_replays_the_reply(
    caller: Caller, access_token: str
) -> None:
    snapshot_id = caller.snapshot(access_token, "lost-snapshot")
    caller.fault("orders.close", "reset_after")
    with pytest.raises(httpx.ReadError):
        caller.close(access_token, "lost", snapshot_id)
    assert caller.close(access_token, "other", snapshot_id).status_code == 409
    assert caller.close(access_token, "lost", snapshot_id).json()["ok"] is True


def test_a_status_is_answered_before_the_work_with_its_body_and_headers(caller: Caller) -> None:
    refresh_token = caller.exchange().json()["refresh_token"]
    caller.fault("token.refresh", "status", status=429, headers={"Retry-After": "7"}, body="slow")
    reply = caller.refresh(refresh_token)
    assert (reply.status_code, reply.headers["Retry-After"], reply.text) == (429, "7", "slow")
    assert caller.refresh(refresh_token).status_code == 200


def test_a_fault_is_played_as_often_as_asked_and_only_for_its_tenant(caller: Caller) -> None:
    caller.fault("token.exchange", "status", tenant_id="acme", count=2)
    assert caller.exchange("other").status_code == 200
    assert [caller.exchange("acme").status_code for _ in range(3)] == [503, 503, 200]


def test_a_refresh_reply_without_refresh_token_has_not_rotated_it(caller: Caller) -> None:
    refresh_token = caller.exchange().json()["refresh_token"]
    caller.fault("token.refresh", "no_refresh_token")
    assert "refresh_token" not in caller.refresh(refresh_token).json()
    assert "refresh_token" in caller.refresh(refresh_token).json()


def body_of(reply: httpx.Response) -> dict[str, Any]:
    return dict(reply.json())


@pytest.mark.parametrize(
    ("kind", "details", "seen"),
    [
        ("status_after", {"status": 502}, lambda reply: reply.status_code == 502),
        ("truncated", {}, lambda reply: reply.text.startswith("{") and reply.text[-1] != "}"),
        ("not_json", {}, lambda reply: "<html>" in reply.text),
        ("wrong_types", {}, lambda reply: body_of(reply)["access_token"] == 7),
        ("error_in_200", {}, lambda reply: reply.status_code == 200 and "error" in body_of(reply)),
        ("redirect", {}, lambda reply: reply.status_code == 307 and "location" in reply.headers),
        ("expires_in_string", {}, lambda reply: body_of(reply)["expires_in"] == "300"),
        ("no_expires_in", {}, lambda reply: "expires_in" not in body_of(reply)),
        (
            "token_type",
            {"token_type": "DPoP"},
            lambda reply: body_of(reply)["token_type"] == "DPoP",
        ),
        ("huge", {}, lambda reply: len(reply.content) > 1024 * 1024),
        ("body", {"body": {"scope": "x"}}, lambda reply: body_of(reply)["scope"] == "x"),
    ],
)
def test_a_token_reply_can_be_spoilt(
    caller: Caller,
    kind: FaultKind,
    details: dict[str, Any],
    seen: Callable[[httpx.Response], bool],
) -> None:
    caller.fault("token.exchange", kind, **details)
    assert seen(caller.exchange())


@pytest.mark.parametrize(
    ("endpoint", "kind", "expected"),
    [
        ("orders.prepareSnapshot", "ok_false", {"ok": False}),
        ("orders.prepareSnapshot", "missing_snapshot_id", {"ok": True}),
    ],
)
def test_an_orders_reply_can_be_spoilt(
    caller: Caller, access_token: str, endpoint: Endpoint, kind: FaultKind, expected: object
) -> None:
    caller.fault(endpoint, kind)
    assert caller.orders("prepareSnapshot", access_token, kind).json() == expected


def test_an_echo_quotes_what_the_request_carries(caller: Caller, access_token: str) -> None:
    body = {"message": "{token}, {half} and {authorization}"}
    caller.fault("orders.close", "echo", status=403, body=body, headers={"Location": "/?{token}"})
    reply = caller.close(access_token, "key", "snapshot")
    half = access_token[: len(access_token) // 2]
    assert reply.json() == {"message": f"{access_token}, {half} and Bearer {access_token}"}
    assert (reply.status_code, reply.headers["Location"]) == (403, f"/?{access_token}")


def test_a_malformed_fault_is_refused(caller: Caller) -> None:
    reply = caller.http.post("/sandbox/faults", json={"endpoint": "revoke", "kind": "?"})
    assert reply.status_code == 400


# What tests may ask


def test_every_secret_given_out_or_received_is_told(caller: Caller) -> None:
    given = caller.exchange().json()
    secrets = caller.secrets()
    assert {given["access_token"], given["refresh_token"]} < set(secrets)
    assert base64.b64encode(":".join(caller.basic).encode()).decode() in secrets
    assert any(secret.startswith("st-") for secret in secrets)


# The program


def test_the_program_prints_its_urls_and_stops_cleanly_when_told_to() -> None:
    program = [sys.executable, "-m", "deployments.sandbox", "--rotation", "none"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        urls = json.loads(process.stdout.readline())
        assert httpx.get(urls["url"] + "/sandbox/health").json() == {"ok": True}
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
