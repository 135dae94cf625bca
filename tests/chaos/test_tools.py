"""What the campaign is made of: each part on its own, without an installation."""

import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import cast

import pytest

from deployments.sandbox.client import SandboxClient
from deployments.sandbox.shapes import Event
from tests.chaos.blows import TARGETS, Kill, KillInWait
from tests.chaos.clocks import SteppedClock
from tests.chaos.drawing import draw
from tests.chaos.judge import Finding, Judge
from tests.chaos.moments import MOMENTS
from tests.chaos.sockets import has_port
from tests.chaos.takeovers import Freeze, went_on
from tests.chaos.trials import Trial

WOKEN = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHOW_TIME = (
    "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)\n"
)


def event(process: str, seconds: float) -> Event:
    return Event(
        number=1,
        at=WOKEN + timedelta(seconds=seconds),
        kind="orders.close",
        tenant_id="acme",
        batch_id="eod",
        status=200,
        error=None,
        fault=None,
        process=process,
    )


def test_a_process_that_stood_still_and_was_given_up_must_send_nothing_when_it_wakes() -> None:
    (wrong,) = went_on([event("a", 1)], [Freeze("a", WOKEN)])
    assert wrong == "orders.close for acme by a process that had stood still and been given up"


@pytest.mark.parametrize("innocent", [event("a", -1), event("b", 1)], ids=["before", "another"])
def test_what_was_sent_before_it_woke_or_by_another_is_not_held_against_it(innocent: Event) -> None:
    assert went_on([innocent], [Freeze("a", WOKEN)]) == []


class OneGrantLeft:
    """A sandbox that gave a grant for each of two journeys, and still knows one of them."""

    def __init__(self, tenant_id: str) -> None:
        self._given = [
            event("a", second).model_copy(update={"kind": "token.exchange", "tenant_id": tenant_id})
            for second in (0, 20)
        ]

    def events(self) -> list[Event]:
        """Both exchanges."""
        return self._given

    def live_grants(self, tenant_id: str) -> int:
        """The one."""
        return int(tenant_id == self._given[0].tenant_id)


@pytest.mark.parametrize("seconds", [0.1, 10], ids=["in flight", "stored long ago"])
def test_a_grant_may_live_on_only_where_a_kill_took_it_before_it_was_stored(seconds: float) -> None:
    trial = Trial("worker: anywhere", is_configured_twice=True)
    sandbox = cast(SandboxClient, OneGrantLeft(trial.binding.tenant_id))
    finding = Finding(trial)
    Judge(sandbox, [WOKEN + timedelta(seconds=seconds)]).judge_grants(finding)
    assert bool(finding.wrong) == (seconds == 10)


def test_every_target_and_moment_and_everything_people_do_is_drawn_sooner_or_later() -> None:
    chance = Random(1)  # noqa: S311
    blows = [draw(chance, 10, TARGETS) for _ in range(8_000)]
    kills = [blow for blow in blows if isinstance(blow, Kill)]
    assert {(it.target, it.moment.name) for it in kills} == {
        (target, moment.name) for target in TARGETS for moment in MOMENTS
    }
    others = {blow.name for blow in blows if not isinstance(blow, Kill | KillInWait)}
    assert {
        "Prefect: away for leases",
        "12 seconds for each refresh",
        "20 seconds for each snapshot",
        "by hand: deployment in WaitForUpstream",
        "by hand: call in ReplicationDelay",
        "suspended and resumed",
        "work pool paused: in WaitForUpstream",
        "clock: ahead in ReplicationDelay",
        "clock: back in WaitForUpstream",
    } <= others


def test_outages_last_more_than_a_lease_mostly_up_to_three_and_never_longer_than_asked() -> None:
    chance = Random(1)  # noqa: S311
    leases = [draw(chance, 10, TARGETS).leases for _ in range(1_000)]
    long = [it for it in leases if it]
    assert 1.2 <= min(long) < max(long) <= 10
    assert sum(it <= 3 for it in long) > 0.75 * len(long)
    assert max(draw(chance, 10, TARGETS, longest=2).leases for _ in range(1_000)) <= 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_behind_a_connection_is_found_by_its_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            port = client.getsockname()[1]
            assert has_port(os.getpid(), port)
            assert not has_port(os.getppid(), port)
        assert not has_port(os.getpid(), 1)


def test_a_running_programs_clock_is_stepped_and_set_right_again(tmp_path: Path) -> None:
    clock = SteppedClock(tmp_path / "clock")
    program = subprocess.Popen(
        [sys.executable, "-c", SHOW_TIME],
        env=os.environ | {"PYTHONPATH": str(clock.folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program as running:
        asking, telling = running.stdin, running.stdout
        assert asking
        assert telling

        def ahead() -> float:
            asking.write("\n")
            asking.flush()
            return float(telling.readline().split()[0]) - time.time()

        assert abs(ahead()) < 2
        for seconds in 3600, -90, 0:
            clock.step(seconds)
            time.sleep(1)
            assert abs(ahead() - seconds) < 2
        asking.close()
