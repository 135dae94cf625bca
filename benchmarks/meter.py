"""What processes cost, as Linux counts it in /proc: CPU seconds and memory, by part.

A part is a process and all that descends from it. Those that ended count as well: Linux adds them
to whoever waited for them.
"""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
USER, SYSTEM, CHILDREN_USER, CHILDREN_SYSTEM = range(11, 15)
"""Fields of /proc/<pid>/stat, counted from behind the program's name; see proc_pid_stat(5)."""

BUSY = (1, 2, 3, 6, 7)
"""Fields of the first line of /proc/stat: user, nice, system, irq, softirq."""

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Process:
    """A process as Linux counts it; `ticks` are its own and those of its ended children."""

    parent: int
    ticks: int


@dataclass(frozen=True)
class Sample:
    """The memory of each part at a moment: proportional set size, in bytes."""

    at: float
    pss: dict[str, int]


@dataclass
class Meter:
    """Measures parts, each known by the processes that it began with."""

    roots: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    samples: list[Sample] = field(default_factory=list)
    _ticks: dict[int, int] = field(default_factory=dict)

    def add(self, part: str, root: int) -> None:
        """Measure this process, too, as belonging to the part."""
        self.roots[part].append(root)

    def cpu(self) -> dict[str, float]:
        """CPU seconds, user and system, that each part has used since it began.

        Of a part that was killed: what it had used when it was last asked for.
        """
        alive = _processes()
        for root in self._all_roots():
            if root in alive:
                self._ticks[root] = sum(alive[pid].ticks for pid in _family(root, alive))
        return {
            part: sum(self._ticks.get(root, 0) for root in roots) / TICKS
            for part, roots in self.roots.items()
        }

    def pss(self) -> dict[str, int]:
        """Bytes of memory of each part; pages that processes share are shared out among them."""
        alive = _processes()
        return {
            part: sum(_pss(pid) for root in roots for pid in _family(root, alive))
            for part, roots in self.roots.items()
        }

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample memory, and the CPU of parts that may be killed, as long as the block lasts."""
        over = threading.Event()

        def sample() -> None:
            while not over.wait(SAMPLE_SECONDS):
                self.cpu()
                self.samples.append(Sample(time.time(), self.pss()))

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _all_roots(self) -> list[int]:
        return [root for roots in self.roots.values() for root in roots]


def machine_cpu() -> float:
    """CPU seconds that the whole machine has used since it was started."""
    fields = (PROC / "stat").read_text().split("\n", 1)[0].split()
    return sum(int(fields[number]) for number in BUSY) / TICKS


def _processes() -> dict[int, Process]:
    found = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                found[int(folder.name)] = _read((folder / "stat").read_text())
    return found


def _read(stat: str) -> Process:
    # The program's name stands in parentheses and may hold anything, spaces as well.
    fields = stat.rpartition(")")[2].split()
    counted = (USER, SYSTEM, CHILDREN_USER, CHILDREN_SYSTEM)
    return Process(int(fields[1]), sum(int(fields[number]) for number in counted))


def _family(root: int, alive: dict[int, Process]) -> list[int]:
    """The process and all that descends from it, as far as they live."""
    members = [root] if root in alive else []
    for member in members:
        members += [pid for pid, process in alive.items() if process.parent == member]
    return members


def _pss(pid: int) -> int:
    with suppress(OSError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
