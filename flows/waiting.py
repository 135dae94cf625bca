"""How a run sleeps: the one file that knows that a waiting run executes nowhere.

Prefect has no "sleep until"; a flow that sleeps holds a process and a worker slot, and is lost with
either. So a run that must wait proposes `Scheduled` for itself at the moment it waits for, under
the name of its wait, and ends. When the moment comes any worker picks it up like any other
scheduled run, and the flow begins again from its first line: whatever it did before the wait must
be stored, and whatever moment it waits for must be derived from what is stored, never from "now".
"""

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from typing import NoReturn

import httpx
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.logging import get_run_logger
from prefect.states import Scheduled

from blocks import clock, ownership
from blocks.lease import OwnershipUnknownError
from blocks.lock import LockedError
from blocks.prefect_refusal import why_prefect_refuses
from blocks.proposals import propose

PREFECT_TROUBLE = (
    httpx.HTTPError,  # outside systems' errors have names of their own by the time they get here
    LockedError,
    OwnershipUnknownError,
)
"""What Prefect's API being away or overloaded looks like."""

AGAIN_SECONDS = (0, 1, 2, 4, 8, 15)
"""Pauses between the first attempts to tell Prefect; then half a minute each, without an end."""

BEGIN_AGAIN = timedelta(seconds=10)

SLEPT_IN_PLACE = timedelta(seconds=3)
"""A wait this short costs less slept than ended and begun again."""


async def wait_until(moment: datetime, *, name: str) -> None:
    """Return at `moment` (aware), or at once if it has passed.

    A longer wait of a deployed run raises `prefect.exceptions.Pause`, which ends the run's process
    in the Prefect state `name`; the run comes back here, from the flow's first line, at `moment`.

    Called directly from Python (no deployment, so no worker that would pick it up again) the flow
    sleeps in its own process.
    """
    # Looked at again on waking: a worker may begin a run some seconds before its scheduled time.
    while (left := moment - clock.now()) > timedelta(0):
        context = FlowRunContext.get()
        run = context.flow_run if context else None
        if run is None or run.deployment_id is None or left <= SLEPT_IN_PLACE:
            await asyncio.sleep(left.total_seconds())
        else:
            await _end_run_until(moment, name, run)


async def go_on_later(trouble: Exception) -> None:
    """End the run, which Prefect's API was too troubled to serve, and have it begin again soon.

    For as long as the API stays away this waits with it. Returns only for a flow that was called
    directly from Python, where no worker would pick the run up again.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is None:
        return
    if refusal := why_prefect_refuses(trouble):
        get_run_logger().error("%s", refusal)
    else:
        get_run_logger().warning("Prefect does not serve this run (%s).", type(trouble).__name__)
    for pause in chain(AGAIN_SECONDS, repeat(30)):
        await asyncio.sleep(pause)
        with suppress(*PREFECT_TROUBLE):
            await (
                ownership.require()
            )  # an earlier attempt may have ended it, and its answer be lost
            await _end_run_until(clock.now() + BEGIN_AGAIN, "PrefectUnavailable", run)


async def _end_run_until(moment: datetime, name: str, run: FlowRun) -> NoReturn:
    message = f"until {moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    waiting: State[None] = Scheduled(name=name, scheduled_time=moment, message=message)
    raise Pause(state=await propose(waiting, run))


def _calm(record: logging.LogRecord) -> bool:
    """Prefect reports every end of a run that is not Completed as an error; a wait is none."""
    if "type=SCHEDULED)" in record.getMessage():
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


logging.getLogger("prefect.flow_runs").addFilter(_calm)
