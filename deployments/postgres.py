"""A real PostgreSQL of this machine's own, for as long as somebody needs one.

From Debian's `postgresql` package, or wherever else `initdb` is found. For tests, the campaign and
the benchmarks; production has its own.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Prefect's statements are long and quick: to compile them takes many times what it saves.
OPTIONS = "-c max_connections=200 -c jit=off"

DEBIAN = Path("/usr/lib/postgresql")
OWNER = "postgres"


class PostgresMissingError(Exception):
    """PostgreSQL is not installed here."""


@contextmanager
def database(port: int) -> Iterator[str]:
    """A new, empty database on this port of loopback; yields the URL that Prefect takes.

    Raises PostgresMissingError, and subprocess.CalledProcessError if it does not start.
    """
    folder = programs()
    home = Path(tempfile.mkdtemp(prefix="daily-orders-postgres-"))
    user = _user(home)
    data = str(home / "data")
    control = [str(folder / "pg_ctl"), "-D", data, "-w", "-s"]
    options = f"-p {port} -h 127.0.0.1 -k {home} {OPTIONS}"
    try:
        _run([str(folder / "initdb"), "-D", data, "-A", "trust", "-U", "prefect"], user)
        _run([*control, "-l", str(home / "log"), "-o", options, "start"], user)
        try:
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        finally:
            _run([*control, "-m", "immediate", "stop"], user)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def process_ids(port: int) -> list[int]:
    """The processes of the database on this port: its first one, and those that it started."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,args="],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    rows = [line.split(maxsplit=2) for line in listed]
    first = [int(pid) for pid, _, args in rows if f"-p {port} " in f"{args} " and "-D" in args]
    return first + [int(pid) for pid, parent, _ in rows if int(parent) in first]


def programs() -> Path:
    """The folder of PostgreSQL's own programs; raises PostgresMissingError."""
    for found in sorted(DEBIAN.glob("*/bin/initdb"), reverse=True):
        return found.parent
    if elsewhere := shutil.which("initdb"):
        return Path(elsewhere).parent
    raise PostgresMissingError("PostgreSQL is not installed: apt-get install postgresql")


def _user(home: Path) -> str | None:
    """Who runs it: PostgreSQL refuses to be run by root."""
    if os.geteuid() != 0:
        return None
    owner = pwd.getpwnam(OWNER)
    os.chown(home, owner.pw_uid, owner.pw_gid)
    return OWNER


def _run(command: list[str], user: str | None) -> None:
    subprocess.run(  # noqa: S603
        command, user=user, check=True, stdout=subprocess.DEVNULL, cwd="/", timeout=60
    )
