"""How a run waits: the one file that knows where a waiting run is meanwhile.

Prefect has no "sleep until". Our worker executes many runs in one process, so there a run sleeps in
memory, in a Prefect state that has the name of its wait, and others take its place.

Elsewhere a flow that sleeps holds a process and a worker slot. So there, and for long waits, the
run proposes `Scheduled` for itself at the moment it waits for, under the name of its wait, and
ends. When the moment comes any worker picks it up like any other scheduled run.

In both cases the process may be gone by then, and the flow begins again from its first line. So
whatever it did before the wait must be stored, and whatever moment it waits for must be derived
from what is stored, never from "now".
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
from prefect.states import Running, Scheduled

from blocks import clock, ownership
from blocks.claim import Claim
from blocks.lease import OwnershipUnknownError
from blocks.lock import LockedError
from blocks.places import is_beside_others, left_while_waiting
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

WAIT_FOR_UPSTREAM = "WaitForUpstream"
"""The state of a night from its beginning until upstream systems are done."""

SLEPT_IN_PLACE = timedelta(seconds=3)
"""A wait this short is not worth to be shown."""

KEPT_AT_MOST = timedelta(hours=1)
"""A longer wait is cheaper in Prefect's database than in a worker's memory."""

LOOK_AT_CLOCK_SECONDS = 15.0


async def wait_until(moment: datetime, *, name: str, in_memory: bool = True) -> bool:
    """Return at `moment` (aware), or at once if it has passed; whether there was a wait.

    A run that our worker executes waits in its memory, in a state of this name, for KEPT_AT_MOST at
    most. A longer wait, or one of a run that Prefect's own engine executes, or not `in_memory`,
    raises `prefect.exceptions.Pause`, which ends the run's process in the Prefect state `name`; the
    run comes back here, from the flow's first line, at `moment`.

    Called directly from Python (no deployment, so no worker that would pick it up again) the flow
    sleeps in its own process.
    """
    has_waited = False
    # Looked at again on waking: a worker may begin a run some seconds before its scheduled time.
    while (left := moment - clock.now()) > timedelta(0):
        has_waited = True
        context = FlowRunContext.get()
        run = context.flow_run if context else None
        if run is None or run.deployment_id is None or left <= SLEPT_IN_PLACE:
            await asyncio.sleep(left.total_seconds())
        elif in_memory and is_beside_others() and left <= KEPT_AT_MOST:
            await _keep_until(moment, name, run)
        else:
            await _end_run_until(moment, name, run)
    return has_waited


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


def waiting_state(claim: Claim, moment: datetime, name: str) -> State[None]:
    """The state of a run that waits in its process's memory until `moment` (aware)."""
    state: State[None] = Running(name=name, message=str(claim.waiting(moment)))
    return state


def is_kept_in_memory(moment: datetime) -> bool:
    """Whether a run that our worker executes waits in its memory until `moment`."""
    return SLEPT_IN_PLACE < moment - clock.now() <= KEPT_AT_MOST


async def _keep_until(moment: datetime, name: str, run: FlowRun) -> None:
    """Wait in this process's memory; people see what for, and others take the run's place."""
    async with left_while_waiting():
        if claim := Claim.in_message(run.state.message if run.state else None):
            # While Prefect is away the run waits unseen: whose it is, is asked before it goes on.
            with suppress(*PREFECT_TROUBLE, ValueError):
                await _show(waiting_state(claim, moment, name), run)
        # In pieces: the machine may sleep meanwhile, and its clock be corrected.
        while (left := (moment - clock.now()).total_seconds()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left, LOOK_AT_CLOCK_SECONDS))
    ownership.ask_again()


async def _show(waiting: State[None], run: FlowRun) -> None:
    now = run.state
    if now and (now.name, now.message) == (waiting.name, waiting.message):
        return  # it was claimed so
    run.state = await propose(waiting, run)


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
