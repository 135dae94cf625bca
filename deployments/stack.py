"""A whole installation on this machine, each part a real process: Prefect server, worker, sandbox.

For the demo, the end-to-end tests and the benchmarks; production has its own server and workers.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

from deployments.prefect_server.safety import AUTH_STRING_FILE, auth_string

WORK_POOL = "daily-orders"
START_SECONDS = 120.0

STOP_SECONDS = 10.0
"""Seconds in which a part has to end that is asked to."""


class StackError(Exception):
    """A part of the installation did not start; the message ends with its last words."""


@dataclass
class Part:
    """One process of the installation, its output in a log file."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    def kill(self) -> None:
        """SIGKILL the process and whatever it started: it gets no chance to say goodbye."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and insist after ten seconds: that is said, for no part should need it."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            late = f"The {self.name} did not end within {STOP_SECONDS:g} seconds: it is killed."
            print(late, file=sys.stderr, flush=True)  # noqa: T201
            self.kill()

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        if number is signal.SIGKILL:
            self.process.wait()


@dataclass
class Stack:
    """The running installation. `home` holds its database, logs and settings."""

    home: Path
    port: int
    environment: dict[str, str]
    parts: list[Part] = field(default_factory=list)
    sandbox_url: str = ""
    journeys_url: str = ""

    @property
    def ui_url(self) -> str:
        """Where people look."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """Where programs look."""
        return f"{self.ui_url}/api"

    @property
    def how_to_log_in(self) -> str:
        """What people enter there; for their eyes, the string itself is not shown."""
        return f"log in with the line in {self.home / AUTH_STRING_FILE}"

    @property
    def login(self) -> tuple[str, str]:
        """Who may call the API: user and password."""
        user, _, password = auth_string(self.home).partition(":")
        return user, password

    def start_server(self, *, plain: bool = False, **settings: str) -> Part:
        """Start the Prefect server and wait until it answers.

        `plain` is `prefect server start` as it is; `settings` are more environment variables.
        """
        command = ["prefect", "server", "start"] if plain else ["-m", "deployments.prefect_server"]
        part = self._start("server", [*command, "--port", str(self.port)], settings)
        self._wait(part, lambda: _answers(f"{self.api_url}/health"))
        return part

    def restart_server(self) -> Part:
        """SIGKILL the Prefect server and start it again, on the same port and database."""
        server = next(part for part in self.parts if part.name == "server")
        server.kill()
        self.parts.remove(server)
        return self.start_server()

    def start_worker(
        self,
        name: str = "worker",
        kind: str = "batch-close",
        pool: str = WORK_POOL,
        *,
        limit: int | None = None,
        part: str | None = None,
        **settings: str,
    ) -> Part:
        """Start a worker of a work pool; it needs no waiting for.

        `part` is what it is called here, if not by its name: two workers may have one name.
        `settings` are more environment variables, for this worker only.
        """
        command = ["prefect", "worker", "start", "--pool", pool, "--type", kind, "--name", name]
        if limit is not None:
            command += ["--limit", str(limit)]
        return self._start(part or name, command, settings)

    def start_journeys_api(self, *options: str) -> Part:
        """Start the Journeys API and wait until it answers; the blocks must be saved by then."""
        port = free_port()
        part = self._start("journeys", ["-m", "deployments.serve", "--port", str(port), *options])
        self.journeys_url = f"http://127.0.0.1:{port}"
        self._wait(part, lambda: _answers(f"{self.journeys_url}/readyz"))
        return part

    def start_sandbox(self, *options: str) -> Part:
        """Start the sandbox and learn its address."""
        part = self._start("sandbox", ["-m", "deployments.sandbox", *options])
        self._wait(part, lambda: part.log.read_text().endswith("\n"))
        self.sandbox_url = json.loads(part.log.read_text().splitlines()[0])["url"]
        return part

    def run(self, *arguments: str, stdin: str | None = None, cwd: Path | None = None) -> str:
        """Run a Python module or program to its end against this installation; its output.

        Raises StackError, with the output, if it does not end well.
        """
        done = subprocess.run(  # noqa: S603
            _command(list(arguments)),
            env=self.environment,
            cwd=cwd,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StackError(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def stop(self) -> None:
        """Stop every part, the latest first."""
        for part in reversed(self.parts):
            part.stop()

    def _start(
        self, name: str, arguments: list[str], settings: Mapping[str, str] | None = None
    ) -> Part:
        log = self.home / f"{name}.log"
        with log.open("a") as output:
            process = subprocess.Popen(  # noqa: S603
                _command(arguments),
                env={**self.environment, **(settings or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        part = Part(name, process, log)
        self.parts.append(part)
        return part

    def _wait(self, part: Part, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            if part.process.poll() is not None or time.monotonic() > deadline:
                raise StackError(f"The {part.name} did not start:\n{part.last_words()}")
            time.sleep(0.1)


@contextmanager
def stack(home: Path, **settings: str) -> Iterator[Stack]:
    """An installation with nothing started yet; everything is stopped at the end.

    Its Prefect server lets its own processes in, and what is in the block.

    `settings` are more environment variables for all its processes.
    """
    port, secret = free_port(), auth_string(home)
    # Nothing of the operator's own Prefect: neither its database nor its keys, nor who may enter.
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = outer | {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_API_AUTH_STRING": secret,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # With these, `prefect deployment run --watch` prints why a run failed.
        "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
        "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
        # Waits of seconds want a worker that looks every second, and no sooner than they end.
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_WORKER_PREFETCH_SECONDS": "1",
        "PYTHONUNBUFFERED": "1",
        **settings,
    }
    installation = Stack(home, port, environment)
    try:
        with temporary_settings({PREFECT_API_AUTH_STRING: secret}):
            yield installation
    finally:
        installation.stop()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _command(arguments: list[str]) -> list[str]:
    # Programs are run as modules of this very interpreter: no PATH to get wrong.
    if arguments[0] == "prefect":
        arguments = ["-m", *arguments]
    return [sys.executable, *arguments]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False
