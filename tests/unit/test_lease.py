"""On what evidence a process is given up: no outage, slow answer or pause may look like its end."""

import asyncio
import gc
import os
from collections.abc import Iterable
from uuid import UUID, uuid4
from weakref import ref

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    temporary_settings,
)

from blocks import lease as leases
from blocks.lease import Lease
from blocks.liveness import Watch
from blocks.own_lock_list import OwnLockList
from blocks.process import Process, lease_seconds

LEASE = 60.0
LOOKS = 10.0


class Observed:
    """One process's lease, as another process looks at it; all in seconds."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.lease_id = uuid4()
        self.process = Process(id=uuid4().hex, name="worker", seconds=LEASE)

    def looks(
        self, moments: Iterable[float], *, alive: bool = False, took: float = 0.1
    ) -> list[UUID]:
        """Look at these moments; what was found dead at the last of them."""
        dead: list[UUID] = []
        for moment in moments:
            if alive:
                self.process = self.process.model_copy(
                    update={"renewals": self.process.renewals + 1}
                )
            dead = self.watch.look({self.lease_id: self.process}, moment, moment + took)
        return dead


def every(seconds: float, *, begin: float = 0, end: float) -> list[float]:
    return [begin + seconds * step for step in range(int((end - begin) / seconds) + 1)]


def test_a_process_that_renews_its_lease_lives() -> None:
    assert not Observed().looks(every(LOOKS, end=600), alive=True)


def test_a_process_that_was_seen_silent_for_its_whole_lease_is_dead() -> None:
    observed = Observed()
    assert not observed.looks(every(LOOKS, end=LEASE))
    assert observed.looks([LEASE + LOOKS]) == [observed.lease_id]


def test_an_outage_of_any_length_is_no_evidence() -> None:
    observed = Observed()
    observed.looks(every(LOOKS, end=30))
    # Nobody could ask for ten minutes: neither could the other renew.
    assert not observed.looks([630])
    assert not observed.looks(every(LOOKS, begin=640, end=680))
    assert observed.looks(every(LOOKS, begin=690, end=700)) == [observed.lease_id]


def test_a_pause_of_who_looks_is_no_evidence() -> None:
    observed = Observed()
    observed.looks(every(LOOKS, end=50))
    # Frozen while its last question was under way: the answer is of before.
    assert not observed.looks([60], took=150)
    assert not observed.looks([211])


def test_a_slow_answer_makes_nobody_dead_sooner() -> None:
    observed = Observed()
    observed.looks([0], took=15)
    assert not observed.looks(every(LOOKS, begin=15, end=LEASE + 10))
    assert observed.looks([LEASE + 20]) == [observed.lease_id]


def test_a_lease_is_as_long_as_it_says_whoever_looks_at_it() -> None:
    observed = Observed()
    observed.process = Process(id=uuid4().hex, name="worker", seconds=600)
    assert not observed.looks(every(LOOKS, end=500))


def test_a_process_of_this_machine_that_does_not_exist_any_more_is_gone_at_once() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    me = Process.this("worker")
    gone = me.model_copy(update={"pid": child})
    observed = Observed()
    observed.process = gone
    assert observed.looks([0]) == [observed.lease_id]
    assert not me.is_surely_gone


def test_what_runs_on_another_machine_or_in_another_container_is_not_judged_by_its_number() -> None:
    elsewhere = Process.this("worker").model_copy(update={"machine": "boot pid:[1]"})
    assert not elsewhere.model_copy(update={"started": "1"}).is_surely_gone


def test_a_process_of_another_user_whose_start_is_hidden_is_not_taken_for_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def not_allowed(*_: int) -> None:
        raise PermissionError

    other = Process.this("worker")
    monkeypatch.setattr("os.kill", not_allowed)
    monkeypatch.setattr("blocks.process._status", lambda _: None)
    assert not other.is_surely_gone


def test_a_process_whose_number_another_one_has_now_is_gone() -> None:
    assert Process.this("worker").model_copy(update={"started": "1"}).is_surely_gone


@pytest.mark.parametrize("text", ["", "a minute", "0", "-5", "nan", "inf"])
def test_a_length_of_leases_that_is_none_is_refused_with_a_sentence(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_CLOSE_LEASE_SECONDS", text)
    with pytest.raises(ValueError, match="must be seconds, from 3 to 3600"):
        lease_seconds()


def test_a_lease_that_was_lost_and_its_list_of_locks_are_not_kept_for_ever() -> None:
    lease = Lease("worker")
    own = OwnLockList.of(lease)
    assert OwnLockList.of(lease) is own
    kept = [ref(lease), ref(own)]

    del lease, own
    gc.collect()

    assert [it() for it in kept] == [None, None]


async def test_renewals_that_come_too_late_cost_no_connection_for_good() -> None:
    is_slow = True

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            if is_slow:
                await asyncio.sleep(60)
            await reader.readuntil(b"\r\n\r\n{}")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            writer.write(b"Content-Length: 2\r\n\r\n[]")

    async def renewal(seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await client.request("POST", "/variables/filter", json={})
        except TimeoutError:
            return False
        return True

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    url = f"http://{host}:{port}/api"
    with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}):
        async with get_client(httpx_settings=leases._ITS_OWN) as client:  # noqa: SLF001
            for _ in range(3):
                assert not any(await asyncio.gather(*(renewal(0.1) for _ in range(4))))
            is_slow = False
            assert await renewal(5)
    server.close()
