"""Lag and cost against the number of tenants: `make plot` draws docs/stampede.png.

From the figures in `benchmarks/results`, the latest of each size.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator

from benchmarks.report import RESULTS

TARGET = Path(__file__).parents[1] / "docs" / "stampede.png"

Figures = dict[str, Any]


def main() -> None:
    """Draw it."""
    series = _series()
    figure, (lag, cost) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, runs in series.items():
        _draw(lag, f"{name}: p99", runs, lambda run: run["lag_seconds"]["p99"])
        _draw(cost, name, runs, lambda run: run["cpu_seconds_per_close"]["total"])
    lag.set(title="How late a close arrives", ylabel="seconds")
    cost.set(title="What a close costs", ylabel="CPU seconds: server, worker, database")
    sizes = sorted({run["tenants"] for runs in series.values() for run in runs})
    for axes in (lag, cost):
        axes.set(xscale="log", yscale="log", xlabel="tenants due at the same moment")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.grid(visible=True, which="both", alpha=0.2)
        axes.legend()
    figure.savefig(TARGET, dpi=120)


def _series() -> dict[str, list[Figures]]:
    """The runs in which nothing was killed, by how the job was done, the fewest tenants first."""
    latest: dict[tuple[str, int], Figures] = {}
    for path in sorted(RESULTS.glob("*.json")):
        run: Figures = json.loads(path.read_text())
        if run.get("kills") == 0 and run["lag_seconds"]:
            latest[f"{run['way']}, {run['database']}", run["tenants"]] = run
    series: dict[str, list[Figures]] = {}
    for (name, _), run in sorted(latest.items(), key=lambda item: item[0]):
        series.setdefault(name, []).append(run)
    return series


def _draw(axes: Any, name: str, runs: list[Figures], value: Callable[[Figures], float]) -> None:
    axes.plot([run["tenants"] for run in runs], [value(run) for run in runs], "o-", label=name)


if __name__ == "__main__":
    main()
