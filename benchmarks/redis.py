"""A real Redis, through which the processes of one Prefect server tell each other what happened.

From Debian's `redis-server` package. `prefect-redis` comes with `pip install -e '.[bench]'`.
"""

import shutil
import subprocess
from pathlib import Path

from deployments.stack import Part


class RedisMissingError(Exception):
    """Redis is not installed here."""


def start(home: Path, port: int) -> Part:
    """Start a new, empty Redis on this port of loopback."""
    program = shutil.which("redis-server")
    if program is None:
        raise RedisMissingError("Redis is not installed: apt-get install redis-server")
    log = home / "redis.log"
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(home)]
    process = subprocess.Popen(  # noqa: S603
        [program, *options, "--logfile", str(log)], text=True, start_new_session=True
    )
    return Part("redis", process, log)


def settings(port: int) -> dict[str, str]:
    """What Prefect's servers need: https://docs.prefect.io/v3/advanced/self-hosted."""
    return {
        "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_REDIS_MESSAGING_HOST": "127.0.0.1",
        "PREFECT_REDIS_MESSAGING_PORT": str(port),
        "PREFECT_SERVER_DOCKET_URL": f"redis://127.0.0.1:{port}/1",
    }
