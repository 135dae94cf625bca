"""Which process this is, and whether another one still exists: a name is not a process."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

LEASE_SECONDS = "BATCH_CLOSE_LEASE_SECONDS"
"""The environment variable for the length of a lease: the same for all of an installation."""

SHORTEST, LONGEST = 3.0, 3600.0


class Process(BaseModel):
    """A process, as its lease describes it. A name survives a restart and may be another's, too.

    Attributes:
        id: Random, made when the process began.
        name: For people.
        machine: Boot and PID namespace of its machine; empty where the system does not tell.
        pid: Its number there.
        started: When it began, as that machine counts.
        seconds: The length of its lease.
        renewals: How often it has renewed its lease.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    id: str
    name: str
    machine: str = ""
    pid: int = 0
    started: str = ""
    seconds: float
    renewals: int = 0

    @classmethod
    def this(cls, name: str) -> Self:
        """The process that asks, under a new id."""
        pid = os.getpid()
        return cls(
            id=uuid4().hex,
            name=name,
            machine=_machine(),
            pid=pid,
            started=_started(pid),
            seconds=lease_seconds(),
        )

    @property
    def is_surely_gone(self) -> bool:
        """Whether it ran on this very machine, and does not exist there any more."""
        here = bool(self.machine) and self.machine == _machine()
        return here and bool(self.started) and _has_ended(self.pid, self.started)


def lease_seconds() -> float:
    """The length of this installation's leases.

    Raises ValueError where LEASE_SECONDS is no number of seconds.
    """
    return seconds_of(LEASE_SECONDS, 60, SHORTEST, LONGEST)


def seconds_of(variable: str, default: float, shortest: float, longest: float) -> float:
    """The seconds that an environment variable sets; raises ValueError where it sets none such."""
    text = os.environ.get(variable, str(default))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not shortest <= seconds <= longest:
        raise ValueError(
            f"{variable} is {text!r}, but must be seconds, from {shortest:g} to {longest:g}."
        )
    return seconds


def _machine() -> str:
    """The machine and its PID namespace: containers number their processes apart."""
    if sys.platform != "linux":
        return ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _has_ended(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's, whose /proc may be hidden (proc(5), hidepid)
        pass
    status = _status(pid)
    return status is not None and (status[0] in {"Z", "X"} or status[1] != started)


def _started(pid: int) -> str:
    """When the process of this number began, in ticks since boot; empty if nobody can tell."""
    status = _status(pid)
    return status[1] if status else ""


def _status(pid: int) -> tuple[str, str] | None:
    """The process's state and start; None where they cannot be read."""
    try:
        # proc(5): the name in parentheses may hold anything; the state follows, the start is later.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]
