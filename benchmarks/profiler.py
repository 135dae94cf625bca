"""Where the time goes: py-spy on the server and the worker, its samples summed up by function."""

import asyncio
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.installation import Installation

TIMES_A_SECOND = 50
SHOWN = 30

IDLE = {
    "Condition.wait",
    "EpollSelector.select",
    "Thread._wait_for_tstate_lock",
    "_send_heartbeats.<locals>.heartbeat_loop",
    "_worker",
}
"""Where threads wait: in some containers py-spy cannot tell that they do."""

TELLING = re.compile(r"\((blocks|flows|deployments|docket|prefect(?!/cli|/__main__))/")
"""Code whose callees are of interest; those of an event loop or a web framework are everything."""


@asynccontextmanager
async def profiled(installation: Installation, target: Path | None) -> AsyncIterator[None]:
    """Profile server and worker for as long as the block lasts, if there is where to write it."""
    if target is None:
        yield
        return
    parts = (installation.server, installation.worker)
    stacks = {part.name: installation.stack.home / f"{part.name}.stacks" for part in parts}
    spies = [await _spy(part.process.pid, stacks[part.name]) for part in parts]
    try:
        yield
    finally:
        for spy in spies:
            spy.send_signal(signal.SIGINT)  # it writes what it has then
            await spy.wait()
    _write(target, stacks)


def summary(name: str, stacks: Iterable[str]) -> str:
    """The functions in which most samples were taken, and those in or under which most were."""
    own: Counter[str] = Counter()
    under: Counter[str] = Counter()
    for line in stacks:
        frames, _, count = line.rpartition(" ")
        functions = frames.split(";")
        if functions[-1].partition(" (")[0] in IDLE:
            continue
        own[functions[-1]] += int(count)
        under.update(dict.fromkeys(filter(TELLING.search, functions), int(count)))
    total = own.total()
    lists = [_listed(f"{name}: in the function itself", own, total)]
    lists += [_listed(f"{name}: in it and in what it calls", under, total)]
    return "\n\n".join(lists)


def _listed(title: str, counts: Counter[str], total: int) -> str:
    rows = [f"{count / total:6.1%}  {function}" for function, count in counts.most_common(SHOWN)]
    return "\n".join([f"{title} ({total / TIMES_A_SECOND:.0f} s)", *rows])


def _write(target: Path, stacks: Mapping[str, Path]) -> None:
    found = [summary(name, into.read_text().splitlines()) for name, into in stacks.items()]
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n\n".join(found) + "\n")


async def _spy(pid: int, into: Path) -> Process:
    program = str(Path(sys.executable).with_name("py-spy"))
    options = ["--pid", str(pid), "--format", "raw", "--function", "--rate", str(TIMES_A_SECOND)]
    return await asyncio.create_subprocess_exec(
        program, "record", *options, "--output", str(into), stdout=DEVNULL, stderr=DEVNULL
    )
