"""The figures of a stampede: as JSON for the plot, as a Markdown table for people."""

import json
import os
import platform
from collections.abc import Iterable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.calls import Calls
from benchmarks.installation import version_of
from benchmarks.judge import percentile
from benchmarks.outcome import Outcome, Stampede

RESULTS = Path(__file__).with_name("results")

HEAD = (
    "way",
    "N",
    "database",
    "closed once",
    "lag p50 / p99 / max, s",
    "CPU-s per close",
    "server / worker / database",
    "peak PSS, MB",
    "PSS per waiting close, kB",
    "all else on the machine, CPU-s/s",
)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything that was measured, and on what; seconds, MB and kB as the names say."""
    stampede, judgement = outcome.stampede, outcome.judgement
    return {
        "date": _today(),
        "machine": machine(outcome),
        "way": stampede.way.name,
        "tenants": stampede.tenants,
        "database": stampede.database,
        "rotation": stampede.rotation,
        "kills": stampede.kills,
        "closed_once": judgement.closed_once,
        "faults": judgement.faults,
        "settled": outcome.settled,
        **figures(outcome),
    }


def figures(outcome: Outcome) -> dict[str, Any]:
    """What it took."""
    tenths = {"first_tenth": outcome.set_up.first_tenth, "last_tenth": outcome.set_up.last_tenth}
    return {
        "seconds": round(outcome.seconds, 1),
        "lag_seconds": lags(outcome),
        "cpu_seconds_per_close": per_close(outcome),
        "idle_cpu_per_second": _rounded(outcome.idle),
        "elsewhere_cpu_per_second": round(outcome.elsewhere / outcome.seconds, 3),
        "memory": _rounded(vars(outcome.memory)),
        "set_up_seconds_per_binding": _rounded(tenths),
    }


def machine(outcome: Outcome) -> dict[str, Any]:
    """What it ran on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "prefect": version("prefect"),
        "database": version_of(outcome.stampede.database),
    }


def lags(outcome: Outcome) -> dict[str, float]:
    """Seconds from when a close was due to when it arrived."""
    found = outcome.judgement.lags
    if not found:
        return {}
    named = {"p50": percentile(found, 50), "p99": percentile(found, 99), "max": found[-1]}
    return _rounded(named)


def per_close(outcome: Outcome) -> dict[str, float]:
    """CPU seconds of each part and of all together, for each close that happened."""
    closes = max(outcome.judgement.closed_once, 1)
    parts = {part: used / closes for part, used in outcome.cpu.items()}
    return _rounded({**parts, "total": sum(parts.values())})


def save(outcome: Outcome) -> Path:
    """Write the figures into `results`."""
    found = as_json(outcome)
    marks = [] if outcome.stampede.way.is_ours else ["usual"]
    marks += [f"kill{found['kills']}"] if found["kills"] else []
    name = "-".join([found["date"], str(found["tenants"]), found["database"], *marks])
    return write(f"{name}.json", found)


def save_calls(stampede: Stampede, calls: Calls) -> Path:
    """Write what was asked of the Prefect API, in all, into `results`."""
    found = {"tenants": stampede.tenants, **vars(calls)}
    name = f"{_today()}-{stampede.tenants}-{stampede.database}-calls.json"
    return write(name, found)


def table(outcomes: Iterable[Outcome]) -> str:
    """A Markdown table; no figure of a run that went wrong, except of the way to compare with."""
    rows = [HEAD, tuple("---" for _ in HEAD), *(_row(outcome) for outcome in outcomes)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def is_refused(outcome: Outcome) -> bool:
    """Whether its figures mean nothing: something was lost, doubled or never settled.

    The usual way is there to be compared with: what it loses is shown beside its figures.
    """
    went_wrong = bool(outcome.judgement.faults) or not outcome.settled
    return went_wrong and outcome.stampede.way.is_ours


def calls_table(calls: Calls, tenants: int) -> str:
    """The requests by method and path, and the events, in all and for each close."""
    rows = [("what", "in all", "per close"), ("---", "---", "---")]
    counts = calls.requests | calls.events
    rows += [(what, str(count), f"{count / tenants:.2f}") for what, count in counts.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(outcome: Outcome) -> tuple[str, ...]:
    stampede, judgement = outcome.stampede, outcome.judgement
    closed = f"{judgement.closed_once} of {stampede.tenants}"
    beginning = (stampede.way.name, str(stampede.tenants), stampede.database, closed)
    if is_refused(outcome):
        why = ", ".join(f"{fault} {count}" for fault, count in judgement.faults.items())
        return (*beginning, f"refused: {why or 'never settled'}", *["-"] * 5)
    cpu = per_close(outcome)
    return (
        *beginning,
        " / ".join(f"{lag:.1f}" for lag in lags(outcome).values()) or "-",
        f"{cpu.pop('total'):.3f}",
        " / ".join(f"{used:.3f}" for used in cpu.values()),
        f"{outcome.memory.peak_mb:.0f}",
        f"{outcome.memory.per_waiting_kb:.0f} ± {outcome.memory.noise_kb:.0f}",
        f"{outcome.elsewhere / outcome.seconds:.2f}",
    )


def _today() -> str:
    return date.today().isoformat()  # noqa: DTZ011  (a name for people, by their calendar)


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(figure, 3) for name, figure in figures.items()}


def write(name: str, found: dict[str, Any]) -> Path:
    """Write figures into `results`, under this name."""
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / name
    target.write_text(json.dumps(found, indent=2) + "\n")
    return target
