"""Another checkout of this project, measured in turn with this one: `BENCH='--beside ../other'`.

The same code varies with the machine by a fifth and more from day to day. So only what was measured
right after one another is compared.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.outcome import Outcome, Stampede
from benchmarks.report import as_json, write


class BesideError(Exception):
    """The other checkout measured nothing; the message ends with its last words."""


@dataclass(frozen=True)
class Pair:
    """The figures of both, as `report` has them."""

    stampede: Stampede
    ours: dict[str, Any]
    theirs: dict[str, Any]

    @property
    def ratio(self) -> float:
        """CPU seconds for a close here, divided by those for one there."""
        return _cpu(self.ours) / _cpu(self.theirs)

    def __str__(self) -> str:
        lags = [found["lag_seconds"]["p99"] for found in (self.ours, self.theirs)]
        return (
            f"{self.stampede}: {_cpu(self.ours):.3f} CPU-s per close here,"
            f" {_cpu(self.theirs):.3f} there, ratio {self.ratio:.2f};"
            f" p99 lag {lags[0]:.1f} s here, {lags[1]:.1f} s there"
        )


def pair(outcome: Outcome, checkout: Path) -> Pair:
    """Measure the same in the other checkout, and store both figures; raises BesideError."""
    stampede = outcome.stampede
    found = Pair(stampede, as_json(outcome), _measure(stampede, checkout))
    name = f"{found.ours['date']}-{stampede.tenants}-{stampede.database}-beside.json"
    commits = {"ours": _commit(Path(__file__).parents[1]), "theirs": _commit(checkout)}
    figures = {"ours": found.ours, "theirs": found.theirs, "ratio": round(found.ratio, 3)}
    write(name, {"commits": commits, **figures})
    return found


def _measure(stampede: Stampede, checkout: Path) -> dict[str, Any]:
    size = ["--tenants", str(stampede.tenants), "--db", stampede.database, "--no-usual-way"]
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "benchmarks", *size],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    stored = re.search(r"^  (results/\S+\.json)$", done.stdout, re.MULTILINE)
    if done.returncode or not stored:
        raise BesideError(f"{checkout} measured nothing:\n{done.stdout}{done.stderr}")
    return dict(json.loads((checkout / "benchmarks" / stored[1]).read_text()))


def _commit(checkout: Path) -> str:
    asked = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603


def _cpu(figures: dict[str, Any]) -> float:
    return float(figures["cpu_seconds_per_close"]["total"])
