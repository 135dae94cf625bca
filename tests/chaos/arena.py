"""The installation that is struck, and put right again."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from blocks import clock
from deployments import postgres
from deployments.sandbox.settings import Rotation
from deployments.stack import Part, Stack, free_port, stack
from tests.chaos.hardships import Target
from tests.chaos.relay import Relay, relays

ASLEEP_SECONDS = 12.0


@dataclass
class Arena:
    """Real processes, and the two relays through which workers reach the others."""

    stack: Stack
    prefect: Relay
    outside: Relay
    workers: dict[str, Part] = field(default_factory=dict)
    kills: list[datetime] = field(default_factory=list)
    """When a worker was killed: what it held in memory only is gone."""
    struck: threading.Event = field(default_factory=threading.Event)

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

    def start_workers(self, number: int) -> None:
        """Start so many workers."""
        for name in [f"worker-{count + 1}" for count in range(number)]:
            self._start_worker(name)

    def strike(self, target: Target) -> None:
        """End a part of the installation, or have it stand still, in this very moment."""
        if self.struck.is_set():
            return
        workers = list(self.workers.values())
        match target:
            case "worker, politely":
                _signal(workers[0], signal.SIGTERM)
            case "worker, asleep":
                _signal(workers[0], signal.SIGSTOP)
            case "one worker":
                self.kills.append(clock.now())
                _signal(workers[0], signal.SIGKILL)
            case _:
                if target in {"server", "both"}:
                    _signal(self._server, signal.SIGKILL)
                if target in {"worker", "both"}:
                    self.kills.append(clock.now())
                    for worker in workers:
                        _signal(worker, signal.SIGKILL)
        self.struck.set()

    def mend(self, target: Target) -> None:
        """Start again what the blow has ended."""
        if target in {"server", "both"}:
            self.stack.restart_server()
        if target == "worker, asleep":
            threading.Event().wait(ASLEEP_SECONDS)
            _signal(next(iter(self.workers.values())), signal.SIGCONT)
        elif target not in {"server", "one worker"}:
            for name, worker in list(self.workers.items()):
                if target != "worker, politely" or worker is next(iter(self.workers.values())):
                    worker.process.wait(60)
                    self._start_worker(name)

    def revive(self) -> list[str]:
        """Start workers that ended without being told to; their names."""
        dead = [name for name, part in self.workers.items() if part.process.poll() is not None]
        for name in dead:
            self._start_worker(name)
        return dead

    @property
    def _server(self) -> Part:
        return next(part for part in self.stack.parts if part.name == "server")

    def _start_worker(self, name: str) -> None:
        through = f"http://127.0.0.1:{self.prefect.port}/api"
        self.workers[name] = self.stack.start_worker(name, PREFECT_API_URL=through)


@contextmanager
def arena(home: Path, *, on_postgres: bool = False, **settings: str) -> Iterator[Arena]:
    """An installation with its relays, and with nothing but the Prefect server started."""
    with ExitStack() as everything:
        if on_postgres:
            url = everything.enter_context(postgres.database(free_port()))
            settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
        installation = everything.enter_context(stack(home, **settings))
        prefect, outside = Relay(installation.port), Relay(0)
        everything.enter_context(relays(prefect, outside))
        installation.start_server()
        yield Arena(installation, prefect, outside)


def _signal(part: Part, number: signal.Signals) -> None:
    os.killpg(part.process.pid, number)
