"""The campaign's findings for people: a line for each kind of hardship."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta

from tests.chaos.judge import Finding

COLUMNS = ("CLOSED", "FAILED", "SKIPPED", "REFUSED")


def table(findings: Iterable[Finding]) -> str:
    """How the trials of each hardship ended, the latest close, and how many went wrong."""
    lines = defaultdict(list)
    for finding in findings:
        lines[finding.trial.name].append(finding)
    width = max(map(len, lines), default=0)
    head = " ".join(["hardship".ljust(width), *COLUMNS, "lost*", "latest", "WRONG"])
    return "\n".join([head, *(_line(name.ljust(width), lines[name]) for name in sorted(lines))])


def _line(name: str, found: list[Finding]) -> str:
    counts = [sum(it.ending == ending for it in found) for ending in COLUMNS]
    lost = sum(it.lost_in_flight for it in found)
    wrong = sum(bool(it.wrong) for it in found)
    late = max((it.late for it in found), default=timedelta(0)).total_seconds()
    cells = [f"{count or '':>{len(column)}}" for count, column in zip(counts, COLUMNS, strict=True)]
    return " ".join([name, *cells, f"{lost or '':>5}", f"{late:5.0f}s", f"{wrong or '':>5}"])
