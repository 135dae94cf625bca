"""The installation that is struck, and put right again."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from blocks import clock
from deployments import postgres
from deployments.sandbox.settings import Rotation
from deployments.stack import Part, Stack, free_port, stack
from tests.chaos.blows import Target
from tests.chaos.clocks import SteppedClock
from tests.chaos.relay import Relay, relays
from tests.chaos.sockets import has_port
from tests.chaos.systems import SETTINGS
from tests.chaos.takeovers import Freeze, process_of

LEASE = 12.0
"""Seconds, unless a campaign says otherwise: long outages are many leases long, and soon over."""

STARTED_AFTER = 8.0
"""Seconds after which a worker that was started takes runs."""

ENDED_WITHIN = 60.0
"""Seconds in which a worker ends that was told to."""


@dataclass
class Arena:
    """Real processes, and the two relays through which workers reach the others."""

    stack: Stack
    prefect: Relay
    outside: Relay
    worker_clock: SteppedClock
    limit: int | None = None
    """How many runs each worker executes at a time, if not as many as it likes."""
    workers: dict[str, Part] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """What each worker is called in Prefect: two may have one name."""
    kills: list[datetime] = field(default_factory=list)
    """When a worker was killed, or stood still beside another: what only it knows is of no use."""
    freezes: list[Freeze] = field(default_factory=list)
    struck: threading.Event = field(default_factory=threading.Event)
    _victim: str = ""
    _outgoing: Part | None = None

    @property
    def outside_url(self) -> str:
        """Where the workers find the OAuth server and the Orders API."""
        return f"http://127.0.0.1:{self.outside.port}"

    def start_sandbox(
        self, rotation: Rotation, *, grace_seconds: float = 60, access_token_seconds: int = 300
    ) -> None:
        """Start a sandbox that rotates so, in place of the one there is."""
        for part in [part for part in self.stack.parts if part.name == "sandbox"]:
            part.stop()
            self.stack.parts.remove(part)
            part.log.unlink()
        self.stack.start_sandbox(
            f"--rotation={rotation}",
            f"--grace-seconds={grace_seconds:g}",
            f"--access-token-seconds={access_token_seconds}",
        )
        self.outside.target_port = int(self.stack.sandbox_url.rpartition(":")[2])

    def start_workers(self, number: int, *, same_name: bool = False) -> None:
        """Start so many workers."""
        for count in range(1, number + 1):
            self.names[f"worker-{count}"] = "worker-1" if same_name else f"worker-{count}"
            self._start_worker(f"worker-{count}")

    def strike(self, target: Target, client_port: int = 0) -> None:
        """End a part of the installation, or have it stand still, in this very moment.

        Of several workers it is the one that holds the connection from `client_port`, else the
        first; "worker" and "both" are all of them.
        """
        if self.struck.is_set():
            return
        self._victim = self._behind(client_port)
        victim = self.workers[self._victim]
        match target:
            case "worker, politely":
                _signal(victim, signal.SIGTERM)
            case "worker, asleep":
                _signal(victim, signal.SIGSTOP)
            case "server, asleep":
                _signal(self._server, signal.SIGSTOP)
            case "worker, replaced" | "worker, replaced politely":
                self._outgoing = victim
                self._start_worker(self._victim)
            case "one worker":
                self._kill(victim)
            case "worker" | "both" | "server":
                self._kill(*([] if target == "server" else self.workers.values()))
                if target != "worker":
                    _signal(self._server, signal.SIGKILL)
        self.struck.set()

    def mend(self, target: Target, seconds: float = 0.0) -> None:
        """Put right what the blow has done, where it is to last: after so many seconds."""
        match target:
            case "worker, asleep":
                self._wake(self.workers[self._victim], seconds)
            case "server, asleep":
                threading.Event().wait(seconds)
                _signal(self._server, signal.SIGCONT)
            case "worker, replaced" | "worker, replaced politely":
                threading.Event().wait(STARTED_AFTER)
                self._see_off(politely=target == "worker, replaced politely")
            case "worker, politely":
                self._restart(self._victim)
            case "server":
                self.stack.restart_server()
            case "worker" | "both":
                if target == "both":
                    self.stack.restart_server()
                for name in list(self.workers):
                    self._restart(name)

    def cut_prefect_off(self, client_port: int) -> None:
        """Nobody reaches Prefect from this very moment on."""
        self.prefect.away = True
        self._victim = self._behind(client_port)
        self.struck.set()

    def let_prefect_return(self, seconds: float, late: float) -> None:
        """Prefect is reached again after so many seconds.

        Of several workers, the one that was cut off in the middle of something reaches it later.
        """
        threading.Event().wait(seconds)
        has_others = len(self.workers) > 1
        if has_others:
            self.prefect.keeps_out = partial(has_port, self.workers[self._victim].process.pid)
        self.prefect.away = False
        if has_others:
            threading.Event().wait(late)
            self.prefect.keeps_out = lambda _: False

    def revive(self) -> list[str]:
        """Start workers that ended without being told to; their names."""
        dead = [name for name, part in self.workers.items() if part.process.poll() is not None]
        for name in dead:
            self._start_worker(name)
        return dead

    @property
    def _server(self) -> Part:
        return next(part for part in self.stack.parts if part.name == "server")

    def _behind(self, client_port: int) -> str:
        for name, part in self.workers.items():
            if client_port and has_port(part.process.pid, client_port):
                return name
        return next(iter(self.workers))

    def _kill(self, *workers: Part) -> None:
        if workers:
            self.kills.append(clock.now())
        for worker in workers:
            _signal(worker, signal.SIGKILL)

    def _wake(self, worker: Part, seconds: float) -> None:
        if len(self.workers) > 1:
            self.kills.append(clock.now())
        asked = self.stack.api_url, self.stack.login, worker.process.pid
        process = process_of(*asked)
        threading.Event().wait(seconds)
        if process and process_of(*asked) != process:
            self.freezes.append(Freeze(process, clock.now()))
        _signal(worker, signal.SIGCONT)

    def _see_off(self, *, politely: bool) -> None:
        assert self._outgoing
        if politely:
            _signal(self._outgoing, signal.SIGTERM)
        else:
            self._kill(self._outgoing)
        _await_end(self._outgoing)

    def _restart(self, name: str) -> None:
        _await_end(self.workers[name])
        self._start_worker(name)

    def _start_worker(self, name: str) -> None:
        through = f"http://127.0.0.1:{self.prefect.port}/api"
        clock_in = self.worker_clock.folder
        self.workers[name] = self.stack.start_worker(
            self.names[name],
            limit=self.limit,
            part=name,
            PREFECT_API_URL=through,
            PYTHONPATH=str(clock_in),
            PYTHONFAULTHANDLER="1",
        )


@contextmanager
def arena(home: Path, *, on_postgres: bool = False, lease: float = LEASE) -> Iterator[Arena]:
    """An installation with its relays, and with nothing but the Prefect server started.

    `lease` is in seconds.
    """
    settings = SETTINGS | {"BATCH_CLOSE_LEASE_SECONDS": f"{lease:g}"}
    with ExitStack() as everything:
        if on_postgres:
            url = everything.enter_context(postgres.database(free_port()))
            settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
        installation = everything.enter_context(stack(home, **settings))
        prefect, outside = Relay(installation.port), Relay(0)
        everything.enter_context(relays(prefect, outside))
        installation.start_server()
        yield Arena(installation, prefect, outside, SteppedClock(home / "clock"))


def _await_end(part: Part) -> None:
    """Return when it has ended; of one that does not, print its log and where its threads are."""
    try:
        part.process.wait(ENDED_WITHIN)
    except subprocess.TimeoutExpired:
        _signal(part, signal.SIGABRT)
        part.process.wait(ENDED_WITHIN)
        print(part.log.read_text(errors="replace")[-20_000:])  # noqa: T201
        raise


def _signal(part: Part, number: signal.Signals) -> None:
    os.killpg(part.process.pid, number)
