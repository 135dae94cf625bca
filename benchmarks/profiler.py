"""Where the time goes: py-spy on the server and the worker, its samples summed up by function."""

import asyncio
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
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

KINDS = {
    "collecting garbage": re.compile(r"^_collect \(deployments/"),
    "events": re.compile(r"\((prefect|deployments)/\S*(events|messaging|task_run_recorder)\b"),
    "changes of state": re.compile(
        r"set_flow_run_state|propose_state|prefect/server/orchestration"
    ),
    "Secret blocks": re.compile(r"block_document"),
    "variables": re.compile(r"/_?variables?\b"),
    "artifacts": re.compile(r"/_?artifacts?\b"),
    "logging": re.compile(r"\((prefect/logging|logging|rich)/"),
    "HTTP as a client": re.compile(r"\((httpx|httpcore)/"),
    "HTTP as a server": re.compile(
        r"\((fastapi|starlette|uvicorn|websockets|prefect/server/utilities/server)"
    ),
    "database, for any of these": re.compile(r"\((sqlalchemy|asyncpg|aiosqlite)/"),
}
"""What a sample is taken for: the first of these that any function in its stack belongs to."""


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
    """In which functions most samples were taken, in or under which, and for what they were."""
    own: Counter[str] = Counter()
    under: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for line in stacks:
        frames, _, count = line.rpartition(" ")
        functions = frames.split(";")
        if functions[-1].partition(" (")[0] in IDLE:
            continue
        own[functions[-1]] += int(count)
        under.update(dict.fromkeys(filter(TELLING.search, functions), int(count)))
        kinds[_kind(functions)] += int(count)
    total = own.total()
    lists = [_listed(f"{name}: in the function itself", own, total)]
    lists += [_listed(f"{name}: in it and in what it calls", under, total)]
    lists += [_listed(f"{name}: for", kinds, total)]
    return "\n\n".join(lists)


def _kind(functions: Sequence[str]) -> str:
    kinds = (kind for kind, those in KINDS.items() if any(map(those.search, functions)))
    return next(kinds, "anything else")


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
