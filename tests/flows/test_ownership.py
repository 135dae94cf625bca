"""What a process does before each effect: it finds out whether it was given up meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate
from prefect.client.schemas.objects import State, StateDetails, StateType
from prefect.states import Cancelled, Running
from pydantic import SecretStr

from blocks import clock, deployment, grant, http, lock, own_lock_list, ownership, systems
from blocks.claim import Claim
from blocks.grant import Grant, GrantError, document, refreshing
from blocks.lease import (
    Lease,
    OwnershipLostError,
    OwnershipUnknownError,
    lease_of_this_process,
)
from blocks.liveness import delete_variable, read_leases
from blocks.lock import LockedError
from blocks.lock_list import PREFIX, Locked, LockList, digest, read_all, read_lists
from blocks.oauth import OAuthServer, Tokens
from blocks.own_lock_list import OwnLockList
from blocks.ownership import Work
from blocks.process import Process
from tests.flows.batch import Batch, is_alive
from tests.locks import is_locked, is_released


def elsewhere() -> Process:
    """A process that has no lease, on a machine that this one cannot look into."""
    return Process(id=uuid4().hex, name="worker", machine="another", pid=7, seconds=60)


CANCELLED: State[None] = Cancelled()
SUSPENDED: State[None] = State(
    type=StateType.PAUSED,
    name="Suspended",
    state_details=StateDetails(
        pause_reschedule=True, pause_timeout=clock.now() + timedelta(hours=1)
    ),
)


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


@pytest.fixture
async def server(prefect_api: None) -> OAuthServer:
    return await systems.oauth_server()


class Me:
    """This process, which may seem to have stood still, and to have been given up by others."""

    def __init__(self, lease: Lease, client: PrefectClient, patch: pytest.MonkeyPatch) -> None:
        self.lease, self._client, self._patch = lease, client, patch

    def sleeps(self, *, leases: float = 1.0) -> None:
        """Stand still for so many times the length of the lease."""
        elapsed, length = clock.elapsed, leases * self.lease.process.seconds
        self._patch.setattr(clock, "elapsed", lambda: elapsed() + length)

    async def is_given_up(self) -> None:
        """Others end the lease, as they do after its whole length, and meanwhile this sleeps."""
        variable = await self._client.read_variable_by_name(
            f"batch_close_lease-{self.lease.process.id}"
        )
        assert variable
        await delete_variable(self._client, variable.id)
        self.sleeps()


@pytest.fixture
async def me(client: PrefectClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Me]:
    """This process, under whose lease the test works."""
    async with Lease("worker").kept() as lease:
        with ownership.working(Work(lease)):
            yield Me(lease, client, monkeypatch)


@pytest.fixture
async def stored(batch: Batch, server: OAuthServer) -> Grant:
    """A grant that was just exchanged."""
    token = SecretStr(batch.sandbox.subject_token(batch.binding.tenant_id))
    tokens = await server.exchange(token, tenant_id=batch.binding.tenant_id)
    await grant.store(batch.binding, Grant.from_exchange(tokens))
    return await grant.load(batch.binding)


async def test_who_slept_and_was_given_up_sends_nothing(
    me: Me, batch: Batch, stored: Grant, server: OAuthServer
) -> None:
    await me.is_given_up()

    with pytest.raises(OwnershipLostError, match="taken this process for dead"):
        await server.refresh(stored.refresh_token)

    assert not batch.requests("token.refresh")


async def test_who_slept_for_less_than_its_lease_goes_on_at_once(
    me: Me, batch: Batch, stored: Grant, server: OAuthServer
) -> None:
    me.sleeps(leases=0.8)

    refreshed = await grant.refresh(batch.binding, server)

    assert refreshed.refresh_token != stored.refresh_token


async def test_who_slept_for_its_whole_lease_goes_on_once_nobody_can_be_ending_it_any_more(
    me: Me, batch: Batch, stored: Grant, server: OAuthServer
) -> None:
    me.sleeps()
    with pytest.raises(OwnershipUnknownError, match="known in a moment"):
        await server.refresh(stored.refresh_token)
    assert not batch.requests("token.refresh")

    me.sleeps(leases=0.2)
    refreshed = await grant.refresh(batch.binding, server)

    assert refreshed.refresh_token != stored.refresh_token


async def test_who_sleeps_between_the_question_and_the_first_byte_sends_nothing(
    me: Me, batch: Batch, stored: Grant, server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = http._send_and_read  # noqa: SLF001  (between the two)

    async def asleep(request: object, *client: object) -> object:
        me.sleeps()
        return await ask(request, *client)

    monkeypatch.setattr(http, "_send_and_read", asleep)

    with pytest.raises(OwnershipUnknownError, match="stood still"):
        await server.refresh(stored.refresh_token)

    assert not batch.requests("token.refresh")


async def test_who_was_given_up_stores_no_grant(me: Me, batch: Batch, stored: Grant) -> None:
    await me.is_given_up()

    with pytest.raises(OwnershipLostError):
        await grant.store(batch.binding, Grant(refresh_token=SecretStr("late")))

    with ownership.working(Work(await lease_of_this_process())):
        assert await grant.load(batch.binding) == stored


@pytest.mark.parametrize("meanwhile", [None, "from who has taken over"])
async def test_who_was_given_up_in_a_refresh_stores_its_token_if_nobody_has_replaced_the_old_one(
    me: Me, batch: Batch, stored: Grant, monkeypatch: pytest.MonkeyPatch, meanwhile: str | None
) -> None:
    ask, given = OAuthServer.refresh, []

    async def frozen(self: OAuthServer, token: SecretStr) -> Tokens:
        given.append(await ask(self, token))
        await me.is_given_up()
        if meanwhile:
            with ownership.working(None):
                await document.write(batch.binding, Grant(refresh_token=SecretStr(meanwhile)))
        return given[0]

    monkeypatch.setattr(OAuthServer, "refresh", frozen)

    with pytest.raises(OwnershipLostError):
        await grant.refresh(batch.binding, await systems.oauth_server())

    kept = (await grant.load(batch.binding)).refresh_token
    assert kept == (SecretStr(meanwhile) if meanwhile else given[0].refresh_token)


async def listed(
    client: PrefectClient,
    process: Process,
    name: str,
    *,
    is_once_only: bool = False,
    number: int = 1,
) -> None:
    """Have the process's list say that it holds the lock of this name."""
    locked = Locked(1, is_once_only, int(clock.now().timestamp()))
    value = LockList(process=process, locked={digest(name): locked}).model_dump(mode="json")
    variable = VariableCreate(name=f"{PREFIX}{process.id}-{number}", value=value)
    await client.create_variable(variable)


async def test_a_lock_whose_holder_has_no_lease_is_taken_over_at_once(
    client: PrefectClient, me: Me
) -> None:
    name = f"lock-{uuid4().hex}"
    await listed(client, elsewhere(), name)

    async with asyncio.timeout(5), lock.only_holder(name):
        pass


async def test_a_lock_whose_holder_lives_is_not_taken_over_however_silent_it_is(
    client: PrefectClient, me: Me
) -> None:
    name = f"lock-{uuid4().hex}"
    async with Lease("worker").kept() as other:
        await listed(client, other.process, name)

        with pytest.raises(LockedError, match="somebody who lives"):
            async with lock.only_holder(name, patience=1):
                pass


async def test_who_slept_for_its_whole_lease_has_a_lock_once_that_is_known(
    client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_CLOSE_LEASE_SECONDS", "3")
    async with Lease("worker").kept() as lease:
        Me(lease, client, monkeypatch).sleeps()
        with ownership.working(Work(lease)):
            async with asyncio.timeout(5), lock.only_holder(f"lock-{uuid4().hex}"):
                assert lease.is_sure


async def test_of_two_processes_that_want_a_lock_at_once_both_get_it_one_after_the_other(
    client: PrefectClient, me: Me
) -> None:
    name, inside = f"lock-{uuid4().hex}", []

    async def take(lease: Lease) -> None:
        with ownership.working(Work(lease)):
            async with lock.only_holder(name):
                inside.append(lease)
                assert inside == [lease]
                await asyncio.sleep(0.2)
                inside.remove(lease)

    async with Lease("one").kept() as one, Lease("other").kept() as other, asyncio.timeout(30):
        await asyncio.gather(*(take(lease) for lease in 4 * [one, other]))


async def test_a_lock_is_held_from_when_it_is_written_to_when_it_is_taken_off_the_list(
    client: PrefectClient, me: Me
) -> None:
    name = f"lock-{uuid4().hex}"
    async with lock.only_holder(name):
        assert await is_locked(name)
    assert await is_released(name)


async def test_what_is_locked_side_by_side_is_written_at_once(
    me: Me, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = OwnLockList._write  # noqa: SLF001  (how often Prefect is asked)

    async def counted(own: OwnLockList, client: PrefectClient, listed: LockList) -> None:
        written.append(len(listed.locked))
        await write(own, client, listed)

    monkeypatch.setattr(OwnLockList, "_write", counted)
    arrived = asyncio.Barrier(20)

    async def take() -> None:
        async with lock.only_holder(f"lock-{uuid4().hex}"):
            await arrived.wait()

    await asyncio.gather(*(take() for _ in range(20)))

    assert max(written) == 20
    assert len(written) <= 3


async def test_as_many_locks_as_a_process_may_have_at_once_fit_into_its_list(
    client: PrefectClient, me: Me
) -> None:
    arrived = asyncio.Barrier(own_lock_list.MOST)

    async def take(*, is_once_only: bool) -> None:
        async with lock.only_holder(f"lock-{uuid4().hex}", is_once_only=is_once_only):
            await arrived.wait()
            async with lock.only_holder(f"lock-{uuid4().hex}", is_once_only=True):
                await arrived.wait()

    async with asyncio.timeout(20):
        await asyncio.gather(*(take(is_once_only=it % 2 == 0) for it in range(own_lock_list.MOST)))


async def test_what_is_released_while_another_release_is_told_is_told_as_well(
    me: Me, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = f"lock-{uuid4().hex}", f"lock-{uuid4().hex}"
    write, writing, go_on = OwnLockList._write, asyncio.Event(), asyncio.Event()  # noqa: SLF001

    async def slow(own: OwnLockList, client: PrefectClient, listed: LockList) -> None:
        writing.set()
        await go_on.wait()
        await write(own, client, listed)

    async with lock.only_holder(second):
        async with lock.only_holder(first):
            monkeypatch.setattr(OwnLockList, "_write", slow)
        await writing.wait()
    go_on.set()

    assert await is_released(first)
    assert await is_released(second)


async def test_a_list_whose_making_was_not_answered_is_written_under_another_number(
    client: PrefectClient, me: Me, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, create, lost = f"lock-{uuid4().hex}", PrefectClient.create_variable, []

    async def unheard(self: PrefectClient, variable: VariableCreate) -> object:
        made = await create(self, variable)
        if not lost:
            lost.append(made)
            raise httpx.RemoteProtocolError("lost")
        return made

    monkeypatch.setattr(PrefectClient, "create_variable", unheard)

    async with asyncio.timeout(10), lock.only_holder(name):
        assert await is_locked(name)

    assert lost
    assert await is_released(name)


async def test_locks_that_are_held_for_long_leave_room_for_others(me: Me) -> None:
    over = asyncio.Event()

    async def take() -> None:
        async with lock.only_holder(f"lock-{uuid4().hex}", is_once_only=True):
            await over.wait()

    async with asyncio.TaskGroup() as refreshes:
        for _ in range(own_lock_list.MOST):
            refreshes.create_task(take())
        await asyncio.sleep(1)
        async with asyncio.timeout(5), lock.only_holder(f"lock-{uuid4().hex}"):
            over.set()


async def test_a_list_whose_answer_was_lost_counts_no_more_whenever_it_is_carried_out(
    client: PrefectClient, me: Me, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = f"lock-{uuid4().hex}", f"lock-{uuid4().hex}"
    request, late = PrefectClient.request, []

    async def lost(self: PrefectClient, method: str, path: str, **options: Any) -> object:
        if method == "PATCH":
            late.append(partial(request, client, method, path, **options))
            raise httpx.ReadTimeout("lost")
        return await request(self, method, path, **options)

    async with lock.only_holder(f"lock-{uuid4().hex}"):
        with monkeypatch.context() as patch:
            patch.setattr(PrefectClient, "request", lost)
            async with lock.only_holder(first):
                assert late
        async with lock.only_holder(second):
            for carried_out in late:
                await carried_out()
            lists = [it.listed for it in await read_lists(client)]
            (mine,) = [it for it in lists if it.process.id == me.lease.process.id]
            assert digest(second) in mine.locked
            assert digest(first) not in mine.locked


async def test_a_list_goes_once_its_process_is_gone_or_has_begun_another(
    client: PrefectClient, me: Me, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, frozen = elsewhere(), elsewhere()
    await listed(client, gone, "lock-1")
    await listed(client, frozen, "lock-2", is_once_only=True)
    await listed(client, me.lease.process, "lock-3")
    await listed(client, me.lease.process, "lock-3", number=2)

    async def left() -> set[tuple[str, int]]:
        mine = {gone.id, frozen.id, me.lease.process.id}
        stored = [(it.listed.process.id, it.number) for it in await read_all(client)]
        return {it for it in stored if it[0] in mine}

    await lock.delete_left(client)
    assert len(await left()) == 4

    monkeypatch.setattr(lock, "KEPT_FOR", timedelta(0))
    await lock.delete_left(client)
    assert await left() == {(frozen.id, 1), (me.lease.process.id, 2)}


async def test_two_runs_of_one_process_exclude_each_other(me: Me) -> None:
    name = f"lock-{uuid4().hex}"
    async with lock.only_holder(name):
        with pytest.raises(LockedError):
            async with lock.only_holder(name, patience=1):
                pass


async def test_a_lock_under_which_a_token_is_spent_outlives_the_lease_of_who_may_only_be_frozen(
    client: PrefectClient, me: Me, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"lock-{uuid4().hex}"
    await listed(client, left := elsewhere(), name, is_once_only=True)
    with pytest.raises(LockedError):
        async with lock.only_holder(name, patience=1):
            pass

    later = clock.now() + timedelta(seconds=lock.ONCE_ONLY_LEASES * left.seconds)
    monkeypatch.setattr(clock, "now", lambda: later)
    async with asyncio.timeout(5), lock.only_holder(name):
        pass


async def test_the_same_lock_of_a_process_that_is_seen_to_be_gone_is_taken_over_at_once(
    client: PrefectClient, me: Me
) -> None:
    name = f"lock-{uuid4().hex}"
    ended = await asyncio.create_subprocess_exec("sleep", "0")
    await ended.wait()
    gone = me.lease.process.model_copy(update={"id": uuid4().hex, "pid": ended.pid})
    await listed(client, gone, name, is_once_only=True)

    async with asyncio.timeout(5), lock.only_holder(name):
        pass


async def test_who_was_given_up_while_a_token_came_still_holds_its_lock_and_stores_the_token(
    me: Me, batch: Batch, stored: Grant, server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, waiting = http.send, []

    async def another_process() -> Grant:
        async with Lease("another").kept() as other:
            with ownership.working(Work(other)):
                return await grant.refresh(batch.binding, server, unless=lambda it: it != stored)

    async def frozen(request: httpx.Request, **options: Any) -> http.Reply:
        reply = await send(request, **options)
        if not waiting:
            await me.is_given_up()
            waiting.append(asyncio.create_task(another_process()))
            await asyncio.sleep(2)
        return reply

    monkeypatch.setattr("blocks.oauth.call.send", frozen)
    with pytest.raises(OwnershipLostError):
        await grant.refresh(batch.binding, server)
    found = await waiting[0]

    assert len(batch.requests("token.refresh")) == 1
    assert found.refresh_token != stored.refresh_token
    with ownership.working(None):
        assert await is_alive(found.refresh_token)


async def test_a_refresh_that_queued_for_its_turn_sends_what_is_stored_by_then(
    batch: Batch, stored: Grant, server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = asyncio.Semaphore(0)
    monkeypatch.setattr(refreshing, "_turn", lambda _: turn)
    monkeypatch.setattr(refreshing, "JUST_READ", 0.1)
    queued = asyncio.create_task(grant.refresh(batch.binding, server))
    await asyncio.sleep(0.5)
    newer = await server.refresh(stored.refresh_token)
    await document.write(batch.binding, stored.rotated(newer, clock.now()))

    turn.release()
    refreshed = await queued

    assert [event.status for event in batch.requests("token.refresh")] == [200, 200]
    assert await is_alive(refreshed.refresh_token)


class Hours:
    """The server's time, which may be put forward; what is measured on clocks is not."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        now, self.later = clock.now, timedelta(0)
        patch.setattr(clock, "now", lambda: now() + self.later)

    def pass_by(self, leases: float, of: Process) -> None:
        """Let so many times the length of this process's lease pass."""
        self.later += timedelta(seconds=leases * of.seconds)


async def is_kept_out(name: str) -> bool:
    """Whether another process, which lives, does not get this lock."""
    async with Lease("another").kept() as other:
        with ownership.working(Work(other)):
            try:
                async with lock.only_holder(name, patience=1):
                    return False
            except LockedError:
                return True


@pytest.fixture
def nearly_over(me: Me, stored: Grant, monkeypatch: pytest.MonkeyPatch) -> Hours:
    """Who refreshes is given up before the answer is read, and others nearly have its lock."""
    ask, hours = OAuthServer.refresh, Hours(monkeypatch)

    async def frozen(self: OAuthServer, token: SecretStr) -> Tokens:
        tokens = await ask(self, token)
        await me.is_given_up()
        hours.pass_by(lock.ONCE_ONLY_LEASES - 0.5, me.lease.process)
        return tokens

    monkeypatch.setattr(OAuthServer, "refresh", frozen)
    return hours


async def test_who_was_given_up_in_a_refresh_looks_again_before_each_attempt_to_store_its_token(
    batch: Batch, server: OAuthServer, nearly_over: Hours, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, newer = PrefectClient.update_block_document, Grant(refresh_token=SecretStr("newer"))
    failed = []

    async def away(self: PrefectClient, *about: Any, **more: Any) -> None:
        if failed:
            return await update(self, *about, **more)
        failed.append(httpx.ConnectError("away again"))
        with ownership.working(None):  # by who has taken over
            await document.write(batch.binding, newer)
        raise failed[0]

    monkeypatch.setattr(PrefectClient, "update_block_document", away)
    with pytest.raises(OwnershipLostError):
        await grant.refresh(batch.binding, server)

    assert (await grant.load(batch.binding)).refresh_token == newer.refresh_token
    assert failed


async def test_who_was_given_up_in_a_refresh_keeps_others_out_while_it_stores_its_token(
    me: Me, batch: Batch, nearly_over: Hours, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, kept_out = PrefectClient.update_block_document, []

    async def late(self: PrefectClient, *about: Any, **more: Any) -> None:
        nearly_over.pass_by(1, me.lease.process)
        kept_out.append(await is_kept_out(batch.binding.lock))
        await update(self, *about, **more)

    monkeypatch.setattr(PrefectClient, "update_block_document", late)
    with pytest.raises(OwnershipLostError):
        await grant.refresh(batch.binding, await systems.oauth_server())

    assert kept_out == [True]


async def test_a_token_that_prefect_refuses_for_good_ends_the_attempts_of_who_was_given_up(
    batch: Batch, server: OAuthServer, nearly_over: Hours, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> None:
        request = httpx.Request("PATCH", "http://prefect.invalid")
        raise httpx.HTTPStatusError("", request=request, response=httpx.Response(422))

    monkeypatch.setattr(PrefectClient, "update_block_document", refused)

    with pytest.raises(GrantError, match="configure it again"):
        await grant.refresh(batch.binding, server)


async def test_a_refresh_that_queued_for_its_turn_keeps_others_out_from_when_it_leaves(
    me: Me, batch: Batch, stored: Grant, server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, hours, kept_out = asyncio.Semaphore(0), Hours(monkeypatch), []
    ask = OAuthServer.refresh

    async def frozen(self: OAuthServer, token: SecretStr) -> Tokens:
        tokens = await ask(self, token)
        await me.is_given_up()
        hours.pass_by(lock.ONCE_ONLY_LEASES - 0.5, me.lease.process)
        kept_out.append(await is_kept_out(batch.binding.lock))
        return tokens

    monkeypatch.setattr(OAuthServer, "refresh", frozen)
    monkeypatch.setattr(refreshing, "_turn", lambda _: turn)
    queued = asyncio.create_task(grant.refresh(batch.binding, server))
    async with asyncio.timeout(10):
        while not await is_locked(batch.binding.lock):  # noqa: ASYNC110  (it is told in Prefect)
            await asyncio.sleep(0.1)
    hours.pass_by(lock.ONCE_ONLY_LEASES - 1, me.lease.process)

    turn.release()
    with pytest.raises(OwnershipLostError):
        await queued

    assert kept_out == [True]


async def test_a_refresh_that_queued_while_its_night_was_stopped_is_not_sent(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, queues = asyncio.Semaphore(0), asyncio.Event()

    def queue(_: OAuthServer) -> asyncio.Semaphore:
        queues.set()
        return turn

    monkeypatch.setattr(refreshing, "_turn", queue)
    await batch.configure_past()
    night = asyncio.create_task(batch.run_night())
    async with asyncio.timeout(20):
        await queues.wait()
    await deployment.pause(batch.binding)
    await asyncio.sleep(refreshing.QUEUED)

    turn.release()

    assert (await night).state.name == "ScheduleOff"
    assert not batch.requests("token.refresh")


async def test_a_refresh_that_has_its_turn_at_once_writes_its_lock_once(
    me: Me, batch: Batch, stored: Grant, server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, publish, published = OAuthServer.refresh, OwnLockList.publish, []

    async def counted(own: OwnLockList) -> list[LockList]:
        published.append(own)
        return await publish(own)

    async def before(self: OAuthServer, token: SecretStr) -> Tokens:
        assert len(published) == 1
        return await ask(self, token)

    monkeypatch.setattr(OwnLockList, "publish", counted)
    monkeypatch.setattr(OAuthServer, "refresh", before)

    await grant.refresh(batch.binding, server)

    assert published


async def test_a_process_that_is_given_up_learns_it_at_its_next_renewal(
    me: Me,
) -> None:
    await me.is_given_up()

    with pytest.raises(OwnershipLostError):
        await me.lease.require()
    assert me.lease.is_lost


async def test_a_lease_ends_with_its_process(client: PrefectClient) -> None:
    async with Lease("worker").kept() as lease:
        name = f"batch_close_lease-{lease.process.id}"
        assert await client.read_variable_by_name(name)
    assert await client.read_variable_by_name(name) is None


async def test_a_change_of_state_whose_answer_was_lost_is_not_sent_again_by_prefects_client(
    me: Me,
) -> None:
    request = httpx.Request("POST", "http://prefect.invalid/api/flow_runs/bulk_set_state")
    await ownership.on_request_to_prefect(request)

    with pytest.raises(OwnershipUnknownError):
        await ownership.on_request_to_prefect(request)


async def test_a_change_of_state_that_prefect_was_too_busy_for_is_sent_again(me: Me) -> None:
    request = httpx.Request("POST", "http://prefect.invalid/api/flow_runs/bulk_set_state")
    await ownership.on_request_to_prefect(request)
    await ownership.on_answer_from_prefect(httpx.Response(503, request=request))

    await ownership.on_request_to_prefect(request)


async def test_a_gateway_that_answers_404_ends_no_lease(
    me: Me, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_found(*_: object) -> bool:
        return False

    monkeypatch.setattr(me.lease, "_is_written", not_found)
    me.sleeps(leases=0.8)

    await me.lease.require()  # the lease is there: the list of them says so

    assert not me.lease.is_lost


async def test_a_second_silence_is_as_long_a_doubt_as_the_first(me: Me) -> None:
    for _ in range(2):
        me.sleeps(leases=2)
        with pytest.raises(OwnershipUnknownError, match="known in a moment"):
            await me.lease.require()
    me.sleeps(leases=0.2)
    await me.lease.require()


async def test_a_renewal_is_doubted_if_the_one_before_landed_a_lease_ago_however_late_its_answer(
    me: Me, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = me.lease._is_written  # noqa: SLF001  (the answer of a slow server)

    async def answered_late(change: dict[str, object]) -> bool:
        is_written = await written(change)
        me.sleeps(leases=0.15)
        return is_written

    me.sleeps(leases=0.6)
    with monkeypatch.context() as patch:
        patch.setattr(me.lease, "_is_written", answered_late)
        await me.lease.require()
    me.sleeps(leases=0.9)

    with pytest.raises(OwnershipUnknownError, match="known in a moment"):
        await me.lease.require()


async def test_variables_that_only_look_like_leases_and_locks_are_left_alone(
    client: PrefectClient, me: Me
) -> None:
    others = ["lease-terms", "batch_close_lease-terms", "recovery", f"lock-{uuid4().hex}"]
    for name in others:
        await client.create_variable(VariableCreate(name=name, value={"office": "Berlin"}))
    try:
        assert not {p.name for p in (await read_leases(client)).values()} & {"unreadable"}
        async with lock.only_holder("recovery"), lock.only_holder(others[-1]):
            pass
        for name in others:
            assert await client.read_variable_by_name(name)
    finally:
        for name in others:
            await client.delete_variable_by_name(name)


@pytest.mark.parametrize("status", [200, 404])
async def test_a_page_of_what_stands_before_prefect_is_no_answer_of_prefects(status: int) -> None:
    request = httpx.Request("GET", "http://prefect.invalid/api/variables/1")
    page = httpx.Response(status, html="<h1>Soon</h1>", request=request)

    with pytest.raises(httpx.RemoteProtocolError):
        await ownership.on_answer_from_prefect(page)


@pytest.mark.parametrize("stop", [SUSPENDED, CANCELLED], ids=["suspended", "cancelled"])
async def test_a_stop_that_a_proposal_for_several_runs_overwrote_counts(
    client: PrefectClient, me: Me, batch: Batch, stop: State[None]
) -> None:
    await batch.configure_past()
    run = await batch.night(1)
    if stop.type == StateType.PAUSED:
        await client.set_flow_run_state(run.id, Running(), force=True)
    await client.set_flow_run_state(run.id, stop)
    claimed: State[None] = Running(message=str(Claim("worker", me.lease.process.id)))
    await client.set_flow_run_state(run.id, claimed, force=True)

    with ownership.working(Work(me.lease, run.id)), pytest.raises(OwnershipLostError):
        await ownership.require()

    assert (await client.read_flow_run(run.id)).state_name == stop.name


async def test_a_run_that_was_resumed_after_a_suspension_goes_on(
    client: PrefectClient, me: Me, batch: Batch
) -> None:
    await batch.configure_past()
    run = await batch.night(1)
    await client.set_flow_run_state(run.id, Running(), force=True)
    await client.set_flow_run_state(run.id, SUSPENDED)
    await client.resume_flow_run(run.id)
    claimed: State[None] = Running(message=str(Claim("worker", me.lease.process.id)))
    await client.set_flow_run_state(run.id, claimed, force=True)

    with ownership.working(Work(me.lease, run.id)):
        await ownership.require()
