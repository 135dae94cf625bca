"""What a stampede runs through: server, worker, sandbox and database, each a real process."""

import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.meter import Meter
from benchmarks.ways import Way
from deployments import postgres
from deployments.prefect_server.settings import as_environment
from deployments.sandbox.settings import Rotation
from deployments.stack import Part, Stack, free_port, stack

Database = Literal["sqlite", "postgres"]

COUNTED = ("server", "worker", "database")
"""What a close costs; not the sandbox, which stands for other people's systems, nor the harness."""

AS_INSTALLED = {
    # The demo's conveniences, which a production server does without.
    "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "false",
    "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "false",
    # Prefect's own defaults.
    "PREFECT_WORKER_QUERY_SECONDS": "10",
    "PREFECT_WORKER_PREFETCH_SECONDS": "10",
}
ACCESS_LOG = {"PREFECT_SERVER_LOGGING_LEVEL": "INFO"}


@dataclass
class Installation:
    """Real processes, and the meter that they run on."""

    stack: Stack
    way: Way
    meter: Meter
    server: Part
    worker: Part

    def replace_worker(self, name: str) -> None:
        """SIGKILL the worker, and start another of this name."""
        self.meter.cpu()
        self.worker.kill()
        self.worker = self.stack.start_worker(name, self.way.worker, self.way.pool)
        self.meter.add("worker", self.worker.process.pid)


@contextmanager
def installed(home: Path, database: Database, way: Way, **settings: str) -> Iterator[Stack]:
    """Prefect's own server on this database, and nothing else; for us with our settings."""
    with ExitStack() as everything:
        if database == "postgres":
            url = everything.enter_context(postgres.database(free_port()))
            settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
        installation = everything.enter_context(stack(home, **AS_INSTALLED, **settings))
        installation.start_server(plain=True, **(as_environment() if way.is_ours else {}))
        yield installation


async def with_worker(running: Stack, way: Way, rotation: Rotation) -> Installation:
    """Add the sandbox and a worker, and prepare what has to be prepared once."""
    # Another worker takes over after 40 s: a server that forgives must do so for longer.
    running.start_sandbox(f"--rotation={rotation}", "--grace-seconds=90")
    await way.prepare(running)
    worker = running.start_worker("worker", way.worker, way.pool)
    meter = Meter()
    for part in running.parts:
        meter.add(part.name, part.process.pid)
    if (port := postgres_port(running)) is not None:
        meter.add("database", postgres.process_ids(port)[0])
    server = next(part for part in running.parts if part.name == "server")
    return Installation(running, way, meter, server, worker)


def version_of(database: Database) -> str:
    """The database's name and version."""
    if database == "sqlite":
        return f"SQLite {sqlite3.sqlite_version}"
    said = subprocess.run(  # noqa: S603
        [postgres.programs() / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"[\d.]+", said)
    return f"PostgreSQL {found[0] if found else said.strip()}"


def postgres_port(running: Stack) -> int | None:
    """The port of its database, if that is PostgreSQL."""
    url = running.environment.get("PREFECT_SERVER_DATABASE_CONNECTION_URL", "")
    found = re.search(r":(\d+)/", url)
    return int(found[1]) if found else None
