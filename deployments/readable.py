"""What can be read of several runs, where some of them make Prefect's answer fail as a whole."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

PAGE = 200

_ALONE = {"Connection": "close"}
"""Having failed, Prefect's server closes the connection, and who comes next on it has to wait."""


def is_unreadable(error: BaseException) -> bool:
    """Whether what was asked for may hold what Prefect, or its client, cannot read."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
    return isinstance(error, ValueError | RecursionError)


async def read_readable(
    client: PrefectClient, run_ids: Sequence[UUID], *, flow: str | None = None
) -> tuple[list[FlowRun], list[UUID]]:
    """Those of these runs that can be read, and the ids of those that cannot.

    Args:
        client: Prefect's API.
        run_ids: The runs.
        flow: Only runs of the flow with this name.

    Raises httpx.HTTPError where Prefect's API is away.
    """
    if len(run_ids) <= PAGE:
        try:
            return await _read(client, run_ids, flow), []
        except Exception as error:
            if not is_unreadable(error):
                raise
        if len(run_ids) <= 1:
            return [], list(run_ids)
    middle = len(run_ids) // 2
    readable, unreadable = await read_readable(client, run_ids[:middle], flow=flow)
    others, not_these = await read_readable(client, run_ids[middle:], flow=flow)
    return readable + others, unreadable + not_these


async def _read(client: PrefectClient, run_ids: Sequence[UUID], flow: str | None) -> list[FlowRun]:
    ids = [str(run_id) for run_id in run_ids]
    wanted: dict[str, Any] = {"flow_runs": {"id": {"any_": ids}}, "limit": PAGE}
    if flow:
        wanted["flows"] = {"name": {"any_": [flow]}}
    answer = await client.request("POST", "/flow_runs/filter", json=wanted, headers=_ALONE)
    return FlowRun.model_validate_list(answer.json())
