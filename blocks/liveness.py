"""Which processes have a lease, and which of them are dead, as one process sees the others.

A lease is a Prefect variable that its process renews. Whoever has seen it unchanged for its whole
length, in looks with no gap between them, knows that its process is dead; a look that fails, or
comes late, begins anew. It is known at once where both are on one machine.
"""

import re
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from pydantic import ValidationError

from blocks.process import Process, lease_seconds

PREFIX = "batch_close_lease-"
_NAME = re.compile(rf"{PREFIX}(?P<process>[0-9a-f]{{32}})")

PAGE = 200
"""As many variables as Prefect's API tells of at once."""


class Watch:
    """What one process has seen of the leases of others: how long each has stood still."""

    def __init__(self) -> None:
        self._standing: dict[UUID, tuple[Process, float]] = {}
        self._asked_at = float("-inf")

    def look(self, found: dict[UUID, Process], asked_at: float, answered_at: float) -> list[UUID]:
        """Take note of one look; returns the leases whose processes are dead.

        Args:
            found: The leases by the ids of their variables.
            asked_at: When Prefect was asked, in seconds of `clock.elapsed`.
            answered_at: When its answer was here: a lease was seen no earlier than `asked_at` and
                no later than this.
        """
        gap, self._asked_at = asked_at - self._asked_at, asked_at
        before, self._standing = self._standing, {}
        for lease_id, process in found.items():
            seen, since = before.get(lease_id, (None, answered_at))
            is_watched = seen == process and gap <= process.seconds / 3
            self._standing[lease_id] = (process, since if is_watched else answered_at)
        return [
            lease_id
            for lease_id, (process, since) in self._standing.items()
            if process.is_surely_gone or asked_at - since >= process.seconds
        ]


async def read_leases(client: PrefectClient) -> dict[UUID, Process]:
    """All leases there are, by the ids of their variables."""
    return dict(_readable(await read_variables(client, PREFIX)))


async def read_variables(client: PrefectClient, prefix: str) -> list[dict[str, Any]]:
    """All variables whose names begin so, as Prefect's API tells of them."""
    found = await _pages(client, prefix)
    while len(found) >= PAGE:
        # What is deleted between two pages moves others from the next one to the one before.
        before, found = found, await _pages(client, prefix)
        if [it["id"] for it in before] == [it["id"] for it in found]:
            break
    return found


async def _pages(client: PrefectClient, prefix: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := await _page(client, prefix, len(found)):
        found += page
        if len(page) < PAGE:
            break
    return found


async def has_lease(client: PrefectClient, process_id: str) -> bool:
    """Whether the lease of this process has not been ended.

    Asked as a list, because the 404 of a gateway whose server is being replaced is no evidence.
    """
    name = f"{PREFIX}{process_id}"
    wanted = {"variables": {"name": {"any_": [name]}}}
    found = (await client.request("POST", "/variables/filter", json=wanted)).json()
    return any(variable["name"] == name for variable in found)


async def delete_variable(client: PrefectClient, variable_id: UUID) -> None:
    """Delete a variable by its id; one that is gone already is fine."""
    try:
        await client.request("DELETE", "/variables/{id}", path_params={"id": variable_id})
    except httpx.HTTPStatusError as error:
        if not is_not_found(error):
            raise


async def _page(client: PrefectClient, prefix: str, offset: int) -> list[dict[str, Any]]:
    wanted = {
        "variables": {"name": {"like_": f"{prefix}%"}},
        "sort": "NAME_ASC",
        "offset": offset,
        "limit": PAGE,
    }
    answer = await client.request("POST", "/variables/filter", json=wanted)
    try:
        page: list[dict[str, Any]] = answer.json()
    except ValueError:
        raise httpx.RemoteProtocolError("Something else than Prefect answered.") from None
    return page


def _readable(page: Iterable[dict[str, Any]]) -> Iterable[tuple[UUID, Process]]:
    for variable in page:
        name = _NAME.fullmatch(variable["name"])
        if name is None:  # somebody else's variable
            continue
        try:
            process = Process.model_validate(variable["value"])
        except ValidationError:  # somebody wrote into it: a living process will write again
            process = Process(id=name["process"], name="unreadable", seconds=lease_seconds())
        yield UUID(variable["id"]), process


def is_not_found(error: Exception) -> bool:
    """Whether Prefect, or what stands before it, answered 404."""
    return (
        isinstance(error, httpx.HTTPStatusError)
        and error.response.status_code == httpx.codes.NOT_FOUND
    )
