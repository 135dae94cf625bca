"""Runs that Prefect cannot tell of, or its client cannot read: they are set aside.

Whoever may create a run can give it parameters that Prefect stores and never answers again, an
integer beyond 64 bits for one. From then on every list that holds the run fails as a whole: no
worker would find any other tenant's. So it is found by what Prefect's own UI asks for, which leaves
the parameters out, they are replaced by none, and the run is ended with a sentence.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.states import Failed

from blocks import clock
from deployments import stopped
from deployments.journey import FLOW
from deployments.readable import is_unreadable, read_readable

LISTED_AT_ONCE = 1000

SOME = 50
"""Of how many other runs one must be readable where none is that was looked for."""

TRIES = 3
PAUSE_SECONDS = 1.0
"""A run whose parameters make Prefect fail does so each time; what ails Prefect itself passes."""

AHEAD = timedelta(minutes=2)
"""How far ahead runs are looked at: further than a worker looks for those that fall due."""

LATELY = stopped.LATELY + timedelta(minutes=1)
"""How long ago a run may have ended: longer than ended ones are looked for."""

_TO_COME = (StateType.SCHEDULED,)
_BEGUN = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED)
_ENDED = (StateType.CANCELLED, StateType.CRASHED, StateType.COMPLETED, StateType.FAILED)

REMOVED: dict[str, Any] = {"parameters": {}, "tags": []}

SET_ASIDE = (
    "Set aside: Prefect could not tell of its parameters, and so of no other run beside it. They"
    " were removed, and its tags. Start it again with others."
)

logger = get_logger("unreadable")


async def set_aside_unreadable(client: PrefectClient, pool: str) -> list[UUID]:
    """Set aside the runs that cannot be read, of those that a worker of the pool looks for.

    One that cannot be set aside now holds up no other. Nothing is done where no run can be read:
    that is not their fault.

    Raises httpx.HTTPError where Prefect's API is away.
    """
    readable, suspects = await read_readable(client, await _looked_for(client, pool))
    if not readable and not await _can_read_others(client, suspects):
        return []
    for _ in range(TRIES - 1):
        if suspects:
            await asyncio.sleep(PAUSE_SECONDS)
            # That Prefect tells of them at all shows that it is well.
            known = await _listed(client, {"id": {"any_": [str(run_id) for run_id in suspects]}})
            _, suspects = await read_readable(client, known)
    return [run_id for run_id in suspects if await _try_to_set_aside(client, run_id)]


async def _looked_for(client: PrefectClient, pool: str) -> list[UUID]:
    """The pool's runs that are due soon, have begun, ended lately or fell due lately when ended.

    And all journeys that have not ended, in whichever pool, or in none: the sweep reads them.
    """
    now = clock.now()
    soon, lately = (now + AHEAD).isoformat(), (now - LATELY).isoformat()
    kinds: list[dict[str, Any]] = [
        {"state": _of_types(_TO_COME), "next_scheduled_start_time": {"before_": soon}},
        {"state": _of_types(_BEGUN)},
        {"state": _of_types(_ENDED), "end_time": {"after_": lately}},
        {"state": _of_types(_ENDED), "expected_start_time": {"after_": lately, "before_": soon}},
    ]
    found = [run_id for kind in kinds for run_id in await _listed(client, kind, pool)]
    found += await _listed(client, {"state": _of_types(_TO_COME + _BEGUN)}, flow=FLOW)
    return list(dict.fromkeys(found))


async def _can_read_others(client: PrefectClient, suspects: Sequence[UUID]) -> bool:
    """Whether any of some other runs can be read, whichever they are."""
    wanted = {"id": {"not_any_": [str(run_id) for run_id in suspects]}}
    readable, _ = await read_readable(client, await _page(client, {"flow_runs": wanted}, SOME))
    return bool(readable)


async def _listed(
    client: PrefectClient, wanted: dict[str, Any], pool: str | None = None, flow: str | None = None
) -> list[UUID]:
    """The ids of the runs that a filter of Prefect's matches."""
    found: list[UUID] = []
    body: dict[str, Any] = {"flow_runs": wanted}
    if pool:
        body["work_pools"] = {"name": {"any_": [pool]}}
    if flow:
        body["flows"] = {"name": {"any_": [flow]}}
    while True:
        page = await _page(client, {**body, "offset": len(found)}, LISTED_AT_ONCE)
        found += page
        if len(page) < LISTED_AT_ONCE:
            return found


async def _page(client: PrefectClient, wanted: dict[str, Any], limit: int) -> list[UUID]:
    # The client's list of addresses does not know this one.
    url: Any = "/ui/flow_runs/history"
    answer = await client.request("POST", url, json={"offset": 0, **wanted, "limit": limit})
    return [UUID(run["id"]) for run in answer.json()]


async def _try_to_set_aside(client: PrefectClient, run_id: UUID) -> bool:
    try:
        await _set_aside(client, run_id)
    except Exception as error:  # noqa: BLE001  (whatever it is, the next run's turn comes)
        logger.warning("Run %s is not set aside now (%s).", run_id, type(error).__name__)
        return False
    return True


async def _set_aside(client: PrefectClient, run_id: UUID) -> None:
    logger.error("Run %s: %s", run_id, SET_ASIDE)
    await _change(client, run_id, REMOVED)
    run = await _read_one(client, run_id)
    if run is None or run.state is None or not run.state.is_final():
        failed: State[None] = Failed(message=SET_ASIDE)
        await client.set_flow_run_state(run_id, failed, force=True)
        run = await _read_one(client, run_id)
    if run is None:  # what Prefect cannot tell lies where nobody can change it
        logger.error("Run %s is deleted.", run_id)
        await client.delete_flow_run(run_id)
    elif whose := await _whose(client, run):
        await _change(client, run_id, {"parameters": whose})


async def _read_one(client: PrefectClient, run_id: UUID) -> FlowRun | None:
    readable, _ = await read_readable(client, [run_id])
    return readable[0] if readable else None


async def _change(client: PrefectClient, run_id: UUID, change: dict[str, Any]) -> None:
    await client.request("PATCH", "/flow_runs/{id}", path_params={"id": run_id}, json=change)


async def _whose(client: PrefectClient, run: FlowRun) -> dict[str, str]:
    """The names of the binding whose night the run is for, by which its outcome is recorded."""
    if run.deployment_id is None:
        return {}
    try:
        given = (await client.read_deployment(run.deployment_id)).parameters
    except Exception as error:
        if isinstance(error, ObjectNotFound) or is_unreadable(error):
            return {}
        raise
    names = {name: given.get(name) for name in ("tenant_id", "batch_id")}
    return {name: value for name, value in names.items() if isinstance(value, str)}


def _of_types(types: Sequence[StateType]) -> dict[str, Any]:
    return {"type": {"any_": [kind.value for kind in types]}}
