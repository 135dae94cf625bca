"""Runs that a dead process left are given back, for any worker to go on.

Open-source Prefect leaves them `Pending`, `Running` or `Cancelling` for ever. Who is dead, the
leases say. Going on with a run is safe: every effect of the flows is safe to repeat.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import anyio
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.states import Cancelled, Scheduled

from blocks import clock
from blocks.claim import Claim
from blocks.liveness import has_lease
from blocks.lock import only_holder
from blocks.proposals import set_state_beside_others
from deployments.readable import is_unreadable

AHEAD = timedelta(minutes=1)
"""How much earlier than its occurrence a run that was given back stands in the queue."""

LOOK_SECONDS = 60.0
"""How often to look though no process has departed: each look reads all runs that are claimed."""

LOCKED_SECONDS = 10.0
"""How long to wait while another process gives runs back: it may as well have them all."""

PAGE = 200
_LEFT = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]

IsHeld = Callable[[UUID], bool]


class Looks:
    """When to look for runs that were left: where one may have been, and every LOOK_SECONDS."""

    def __init__(self) -> None:
        self._left = 0
        self._seen: tuple[int, int] | None = None
        self._looked_at = float("-inf")

    def is_due(self, departed: int) -> bool:
        """Whether to look now; `departed` is how many processes have, as the lease counts them."""
        is_old = clock.elapsed() - self._looked_at >= LOOK_SECONDS
        return is_old or self._seen != self.begin(departed)

    def begin(self, departed: int) -> tuple[int, int]:
        """What a look sees that begins now: for `done`."""
        return departed, self._left

    def done(self, seen: tuple[int, int]) -> None:
        """A look was completed that saw this when it began."""
        self._seen, self._looked_at = seen, clock.elapsed()

    def soon(self) -> None:
        """Look at the next opportunity: something may have been left here."""
        self._left += 1


async def recover(
    client: PrefectClient,
    pool: str,
    process: str,
    is_held: IsHeld,
    failed: Callable[[], None] = lambda: None,
) -> list[FlowRun]:
    """Give back the pool's runs that nobody executes, though they are claimed; returns them.

    Args:
        client: Prefect's API.
        pool: The work pool whose runs are looked at.
        process: The id of the process that asks.
        is_held: Whether this process executes a run, has just ended it, or is about to claim it.
            A run that is claimed by it and not held was left by a lost answer.
        failed: Called for each run that could not be given back.
    """
    if not await _left(client, pool, process, is_held):
        return []
    # By one at a time: whoever found them earlier could take them from who has claimed them since.
    async with only_holder("recovery", patience=LOCKED_SECONDS):
        left = await _left(client, pool, process, is_held)
        async with anyio.create_task_group() as giving_back:
            for run, claim in left:
                giving_back.start_soon(_try_to_give_back, client, run, claim, failed)
    return [run for run, _ in left]


async def _try_to_give_back(
    client: PrefectClient, run: FlowRun, claim: Claim, failed: Callable[[], None]
) -> None:
    try:
        await give_back(client, run, f"{claim.worker}, process {claim.process}, is gone")
    except Exception:  # noqa: BLE001
        # The others go on all the same; this one is found at the next look.
        get_logger("recovery").exception("Run %s is not given back.", run.name)
        failed()


async def give_back(client: PrefectClient, run: FlowRun, why: str) -> None:
    """Have the run go on at once, on whichever worker is free; end it if it was cancelled."""
    if run.state and run.state.is_cancelling():
        cancelled: State[None] = Cancelled(message=f"Cancelled while it was executed; {why}.")
        with suppress(ObjectNotFound):  # deleted meanwhile
            await client.set_flow_run_state(run.id, cancelled, force=True)
        return
    get_logger("recovery").warning("Run %s goes on: %s.", run.name, why)
    # Ahead of runs that have not begun: it may have been killed with a rotated refresh token, and a
    # server that forgives a repeated one does so for some seconds only.
    ahead = (run.expected_start_time or clock.now()) - AHEAD
    state: State[None] = Scheduled(name="HandedOver", message=why, scheduled_time=ahead)
    await set_state_beside_others(client, run.id, state)


async def _left(
    client: PrefectClient, pool: str, process: str, is_held: IsHeld
) -> list[tuple[FlowRun, Claim]]:
    left: list[tuple[FlowRun, Claim]] = []
    living: dict[str, bool] = {}
    for run in await _unfinished(client, pool):
        if is_held(run.id):
            continue
        try:
            claim = await _claim_of(client, run)
        except Exception as error:
            if not is_unreadable(error):
                raise
            # Its former states hold what Prefect cannot tell of; the others go on all the same.
            get_logger("recovery").warning("Nobody can tell whose run %s was.", run.name)
            continue
        if claim is None:
            continue
        if claim.process not in living:
            alive = claim.process != process and await has_lease(client, claim.process)
            living[claim.process] = alive
        if not living[claim.process]:
            left.append((run, claim))
    return left


async def _unfinished(client: PrefectClient, pool: str) -> list[FlowRun]:
    found: list[FlowRun] = []
    kinds = FlowRunFilterStateType(any_=_LEFT)
    while True:
        page = await client.read_flow_runs(
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=kinds)),
            limit=PAGE,
            offset=len(found),
        )
        found += page
        if len(page) < PAGE:
            return found


async def _claim_of(client: PrefectClient, run: FlowRun) -> Claim | None:
    """Whose the run is, or was before somebody set its state; None if it was never claimed."""
    if run.state is None:
        return None
    if claim := Claim.in_message(run.state.message):
        return claim
    with suppress(ObjectNotFound):  # deleted meanwhile
        states = await client.read_flow_run_states(run.id)
        return _latest_claim(states)
    return None


def _latest_claim(states: Sequence[State[Any]]) -> Claim | None:
    claims = [Claim.in_message(state.message) for state in states]
    return next((claim for claim in reversed(claims) if claim), None)
