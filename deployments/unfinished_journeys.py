"""The configure runs that have not ended: what they name is still needed, for a day.

Some never end: one is scheduled for next year, one is paused, one of a process pool was killed.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import TERMINAL_STATES, StateType

from blocks import caller_token, clock
from blocks.binding import Binding
from deployments.journey import FLOW

PAGE = 200

NEEDED_FOR = caller_token.KEPT_AT_MOST
"""For how long after it was made a run may need what it names."""

_UNFINISHED = [kind.value for kind in StateType if kind not in TERMINAL_STATES]


async def read_unfinished(client: PrefectClient) -> list[dict[str, Any]]:
    """The parameters of every configure run that has not ended, and was made within a day.

    Raises httpx.HTTPError where Prefect does not tell: then nothing is known of what is needed.
    """
    found: dict[str, dict[str, Any]] = {}
    since = clock.now() - NEEDED_FOR
    while True:
        # Without those found already, and not from the next one on: where one ends meanwhile, the
        # others move up, and one that lives would be on no page.
        wanted = {
            "flows": {"name": {"any_": [FLOW]}},
            "flow_runs": {
                "state": {"type": {"any_": _UNFINISHED}},
                "id": {"not_any_": list(found)},
            },
            "limit": PAGE,
        }
        # As they come: somebody may have made one that cannot be read as it should be.
        page = (await client.request("POST", "/flow_runs/filter", json=wanted)).json()
        found |= {run["id"]: run for run in page}
        if len(page) < PAGE:
            return [it["parameters"] for it in found.values() if _made_at(it) > since]


def _made_at(run: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(run["created"])


def tokens_named(parameters: list[dict[str, Any]]) -> set[object]:
    """The blocks from which these runs are going to take their callers' tokens."""
    named = (it.get("access_token_block") for it in parameters)
    return {name for name in named if isinstance(name, str)}


def slugs_named(parameters: list[dict[str, Any]]) -> set[str]:
    """The slugs of the bindings that these runs configure."""
    return set(_slugs(parameters))


def _slugs(parameters: list[dict[str, Any]]) -> Iterator[str]:
    for given in parameters:
        tenant_id, batch_id = given.get("tenant_id"), given.get("batch_id")
        if isinstance(tenant_id, str) and isinstance(batch_id, str):
            yield Binding(tenant_id, batch_id).slug
