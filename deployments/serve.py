"""Serve the Journeys API: `python -m deployments.serve` (or `make serve`).

On the Prefect that PREFECT_API_URL names. Where none is configured, a whole installation is started
beside it, to try it with: a Prefect server, a worker, and the sandbox (an OAuth server and an
Orders API), all of which forget everything when they end.
"""

import argparse
import asyncio
import logging
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks import systems
from blocks.http import is_loopback
from blocks.prefect_refusal import why_prefect_refuses
from deployments.demo import create_work_pool, save_blocks
from deployments.doors import warn_of_open_doors
from deployments.http_api.access_log import leave_out_queries
from deployments.http_api.app import create_app
from deployments.http_api.arrival import CONNECTIONS, BoundedProtocol
from deployments.stack import Stack, StackError, stack

GRACE_SECONDS = 10
"""For requests that are being served when the process is told to stop."""


class Server(uvicorn.Server):
    """Tells those who wait for a journey to end that the process does, so that they are answered.

    uvicorn stops accepting, waits for the answers under way, and ends.
    """

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping: asyncio.Event = app.state.stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and say meanwhile which doors stand open."""
        await super().startup(sockets)
        self._looking = asyncio.create_task(warn_of_open_doors(logging.getLogger("uvicorn.error")))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let nobody wait any longer, then shut down in order."""
        self._stopping.set()
        await super().shutdown(sockets)


def main() -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deployments.serve", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--unverified",
        action="store_true",
        help="serve whoever can reach the port, where the OAuth Server block verifies no callers",
    )
    options = parser.parse_args()
    # uvicorn shuts down in order and then raises the signal again: this makes it exit code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        if PREFECT_API_URL.value():
            return _serve(options)
        with _embedded() as installation:
            print(f"Prefect UI: {installation.ui_url}, {installation.how_to_log_in}")  # noqa: T201
            print(f"Tokens: {installation.sandbox_url}/sandbox/subject-tokens")  # noqa: T201
            return _serve(options)
    except (StackError, systems.NotSavedError) as error:
        print(error, file=sys.stderr)  # noqa: T201
    except httpx.HTTPError as error:
        away = f"Prefect does not answer at {PREFECT_API_URL.value()}."
        print(why_prefect_refuses(error) or away, file=sys.stderr)  # noqa: T201
    return 1


def _serve(options: argparse.Namespace) -> int:
    host, port = options.host, options.port
    if not is_loopback(host):
        server = asyncio.run(systems.oauth_server())
        if server.caller_verification == "none":
            print(  # noqa: T201
                f"Callers are not verified, so {host} is no place to listen on: set"
                " caller_verification in the OAuth Server block, or listen on 127.0.0.1.",
                file=sys.stderr,
            )
            return 1
    print(f"Journeys API: http://{host}:{port}/docs", flush=True)  # noqa: T201
    app = create_app(serves_unverified=options.unverified)
    server_for(app, host, port).run()
    return 0


def server_for(app: FastAPI, host: str, port: int) -> Server:
    """A server that a slow or endless client takes nothing from but its own connection."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=BoundedProtocol,
        ws="none",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    leave_out_queries()
    return Server(app, config)


@contextmanager
def _embedded() -> Iterator[Stack]:
    """A whole installation; what it remembers ends with it."""
    home = Path(tempfile.mkdtemp(prefix="daily-orders-serve-"))
    try:
        with stack(home) as installation:
            print("Starting a Prefect server, a worker and the sandbox", flush=True)  # noqa: T201
            installation.start_sandbox()
            installation.start_server()
            with temporary_settings({PREFECT_API_URL: installation.api_url}):
                asyncio.run(_prepare(installation))
                installation.run("prefect", "--no-prompt", "deploy", "--all")
                installation.start_worker()
                yield installation
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def _prepare(installation: Stack) -> None:
    await create_work_pool()
    await save_blocks(installation.sandbox_url)


if __name__ == "__main__":
    raise SystemExit(main())
