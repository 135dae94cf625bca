"""The benchmarks' arithmetic, where it could tell something better than it is."""

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.calls import count_requests
from benchmarks.judge import Judgement, judge, percentile
from benchmarks.memory import Memory, memory
from benchmarks.meter import Meter, Sample
from benchmarks.outcome import Outcome, Stampede
from benchmarks.profiler import summary
from benchmarks.report import is_refused, per_close, table
from benchmarks.set_up import SetUp
from benchmarks.ways import BatchClose, UsualWay
from deployments.sandbox.shapes import BindingCloses, Close, Event, Verdict

DUE = datetime(2026, 11, 23, 23, tzinfo=UTC)

BURN = "import time\nwhile time.process_time() < 0.5: pass"
LEAVE_A_CHILD_BEHIND_US = f"""
import subprocess, sys, time
subprocess.run([sys.executable, "-c", '''{BURN}'''], check=True)
print("ended", flush=True)
time.sleep(60)
"""


def closes(tenant: str, *lags: float) -> BindingCloses:
    moments = [DUE + timedelta(seconds=lag) for lag in lags]
    found = [Close(closed_at=at, snapshot_id="s", occurrence=DUE) for at in moments]
    return BindingCloses(tenant_id=tenant, batch_id="eod", closes=found)


def outcome(judgement: Judgement, *, settled: bool = True, ours: bool = True) -> Outcome:
    way = BatchClose() if ours else UsualWay()
    return Outcome(
        stampede=Stampede(judgement.tenants, way, "sqlite"),
        judgement=judgement,
        set_up=SetUp(DUE, [1.0]),
        cpu={"server": 3.0, "worker": 1.0},
        idle={},
        elsewhere=0.0,
        seconds=40.0,
        settled=settled,
        memory=Memory(0, 1, 0, 0, 0),
        calls=None,
    )


@pytest.mark.parametrize(
    ("number", "percent", "expected"),
    [(1, 99, 1), (2, 50, 1), (20, 99, 20), (100, 99, 99), (101, 99, 100), (1000, 99, 990)],
)
def test_a_percentile_is_a_measured_value_and_never_rounded_down(
    number: int, percent: int, expected: int
) -> None:
    assert percentile(range(1, number + 1), percent) == expected


def test_a_lag_counts_from_when_the_close_was_due() -> None:
    found = judge(["a", "b"], Verdict(closed=2), [closes("b", 3.5), closes("a", 1.25)], DUE)
    assert found.lags == [1.25, 3.5]
    assert not found.faults


def test_a_tenant_that_was_not_closed_is_lost_even_if_another_closed_twice() -> None:
    found = judge(["a", "b"], Verdict(closed=2, double_close=1), [closes("a", 1, 2)], DUE)
    assert found.faults == {"lost": 1, "doubled": 1}
    assert found.closed_once == 0


def test_a_second_close_is_a_double_even_if_the_sandbox_had_no_plan_for_it() -> None:
    assert judge(["a"], Verdict(closed=2), [closes("a", 1, 2)], DUE).faults == {"doubled": 1}


@pytest.mark.parametrize("fault", ["early", "reuse", "rekeyed"])
def test_what_else_the_sandbox_saw_counts_as_a_fault(fault: str) -> None:
    verdict = Verdict.model_validate({"closed": 1, fault: 1})
    assert judge(["a"], verdict, [closes("a", 1)], DUE).faults == {fault: 1}


def test_no_figure_is_shown_of_a_run_that_lost_a_close() -> None:
    lost = outcome(judge(["a", "b"], Verdict(closed=1), [closes("a", 1)], DUE))
    assert is_refused(lost)
    row = table([lost]).splitlines()[-1]
    assert "1 of 2 | refused: lost 1 |" in row
    assert "4.000" not in row


def test_no_figure_is_shown_of_a_run_that_never_settled() -> None:
    stuck = outcome(judge(["a"], Verdict(closed=1), [closes("a", 1)], DUE), settled=False)
    assert is_refused(stuck)
    assert "refused: never settled" in table([stuck])


def test_of_the_usual_way_what_it_lost_is_shown_beside_its_figures() -> None:
    lost = outcome(judge(["a", "b"], Verdict(closed=1), [closes("a", 1)], DUE), ours=False)
    assert "1 of 2 | 1.0 / 1.0 / 1.0 | 4.000 | 3.000 / 1.000" in table([lost])


def test_what_a_close_costs_is_shared_only_among_those_that_happened() -> None:
    half = outcome(judge(["a", "b"], Verdict(closed=1), [closes("a", 1)], DUE))
    assert per_close(half) == {"server": 3.0, "worker": 1.0, "total": 4.0}


def test_the_cpu_of_a_child_that_has_ended_counts() -> None:
    command = [sys.executable, "-c", LEAVE_A_CHILD_BEHIND_US]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout
            assert parent.stdout.readline() == "ended\n"
            meter = Meter()
            meter.add("part", parent.pid)
            assert 0.4 < meter.cpu()["part"] < 3
        finally:
            parent.kill()


def test_the_cpu_of_a_child_that_still_runs_counts_once() -> None:
    run_a_child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '''{BURN}\n"
    command = [sys.executable, "-c", run_a_child + "time.sleep(60)'''])"]
    meter = Meter()
    with subprocess.Popen(command, start_new_session=True) as parent:
        try:
            meter.add("part", parent.pid)
            until = time.monotonic() + 30
            while meter.cpu()["part"] < 0.4 and time.monotonic() < until:
                time.sleep(0.05)
            assert 0.4 <= meter.cpu()["part"] < 0.9
            child = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()[0]
        finally:
            subprocess.run(["kill", "-9", child, str(parent.pid)], check=True)


def test_what_a_killed_process_had_used_is_not_forgotten() -> None:
    meter = Meter()
    with subprocess.Popen([sys.executable, "-c", f"{BURN}\ntime.sleep(60)"]) as process:
        meter.add("worker", process.pid)
        until = time.monotonic() + 30
        while (used := meter.cpu()["worker"]) < 0.4 and time.monotonic() < until:
            time.sleep(0.05)
        process.kill()
    meter.add("worker", 2**22 + 1)  # no process has this number
    assert meter.cpu()["worker"] == pytest.approx(used, abs=0.2) != 0


def test_memory_is_shared_among_those_that_wait_and_not_among_all() -> None:
    moment = DUE.timestamp()
    megabytes = [(-2, 100), (-1, 101), (5, 111), (60, 109)]
    samples = [Sample(moment + at, {"server": 0, "worker": mb * 10**6}) for at, mb in megabytes]
    moments = [("token.refresh", 1), ("token.refresh", 2), ("orders.prepareSnapshot", 20)]
    moments += [("token.refresh", 30), ("orders.prepareSnapshot", 50)]
    events = [
        Event(
            number=number,
            at=DUE + timedelta(seconds=at),
            kind=kind,
            tenant_id="a",
            batch_id="eod",
            status=200,
            error=None,
            fault=None,
        )
        for number, (kind, at) in enumerate(moments)
    ]
    found = memory(samples, events, DUE)
    assert found == Memory(peak_mb=111, waiting=2, per_waiting_kb=5000, left_kb=4000, noise_kb=500)


def test_calls_are_counted_by_path_without_what_differs() -> None:
    run = "/api/flow_runs/0197a1b2-0000-7000-8000-000000000001"
    log = [
        f'10:00:00.000 | INFO    | uvicorn.access - 127.0.0.1:1 - "GET {run} HTTP/1.1" 200\n',
        f'10:00:00.000 | INFO    | uvicorn.access - 127.0.0.1:2 - "GET {run[:-1]}2 HTTP/1.1" 200\n',
        '10:00:00 | INFO | x - "GET /api/variables/name/ctx-a?full=1 HTTP/1.1" 200\n',
        '10:00:00 | INFO | x - "POST /api/work_pools/daily/get_scheduled_flow_runs HTTP/1.1" 200\n',
        '10:00:00 | INFO | x - "WebSocket /api/events/in" [accepted]\n',
        "something else\n",
    ]
    assert count_requests(log) == {
        "GET /api/flow_runs/{id}": 2,
        "GET /api/variables/name/{name}": 1,
        "POST /api/work_pools/{name}/get_scheduled_flow_runs": 1,
        "WebSocket /api/events/in": 1,
    }


def test_a_recursive_function_counts_once_in_each_sample_of_a_profile() -> None:
    walk = "walk (prefect/x.py:1)"
    shown = summary("worker", [f"main;{walk};{walk};read 3", f"main;{walk} 1"])
    own, under = shown.split("\n\n")[0], shown.split("\n\n")[1]
    assert " 75.0%  read" in own
    assert "100.0%  walk" in under


def test_a_sample_of_a_profile_counts_for_one_kind_of_work_and_the_unknown_for_another() -> None:
    requested = "_run (asyncio/events.py:1);create_variable (prefect/server/api/variables.py:55)"
    answered = "run (fastapi/routing.py:1);send (uvicorn/h11_impl.py:2)"
    asked = f"{requested};execute (sqlalchemy/engine.py:3)"
    shown = summary(
        "server", [f"{asked} 5", f"{answered} 3", "execute (asyncpg/x.py:1) 1", "main 1"]
    )
    assert shown.split("\n\n")[2].splitlines()[1:] == [
        " 50.0%  variables",
        " 30.0%  HTTP as a server",
        " 10.0%  database, for any of these",
        " 10.0%  anything else",
    ]


def test_waiting_is_no_work_in_a_profile() -> None:
    shown = summary("worker", ["main;EpollSelector.select (selectors.py:451) 99", "main;read 1"])
    assert "100.0%  read" in shown
    assert "select" not in shown
