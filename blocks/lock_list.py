"""What processes have locked, as it stands in Prefect: one variable for each process, its list.

A list is numbered. What was written and never answered may be carried out later than what is
written next: so a process begins another list then, and only its latest one counts.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableCreate
from prefect.client.schemas.objects import Variable
from pydantic import BaseModel, ValidationError

from blocks.liveness import is_not_found, read_variables
from blocks.process import Process

PREFIX = "batch_close_locks-"
_NAME = re.compile(rf"{PREFIX}(?P<process>[0-9a-f]{{32}})-(?P<number>\d+)")


class Locked(NamedTuple):
    """One entry of a list: which of the process's attempts, what for, since when.

    `is_once_only` says that what is done meanwhile must not be done a second time; `since` is in
    seconds since 1970 (UTC).
    """

    attempt: int
    is_once_only: bool
    since: int


class LockList(BaseModel):
    """What a process has locked, or tries to, by the digests of the locks' names."""

    process: Process
    locked: dict[str, Locked]

    def as_stored(self) -> dict[str, Any]:
        """The list as JSON."""
        return self.model_dump(mode="json", by_alias=True)


@dataclass(frozen=True)
class Stored:
    """A list as it stands in Prefect."""

    variable_id: UUID
    number: int
    listed: LockList
    updated: datetime


def digest(name: str) -> str:
    """How the lock of this name is listed."""
    return sha256(name.encode()).hexdigest()[:16]


async def read_lists(client: PrefectClient) -> list[Stored]:
    """Each process's latest list; raises httpx.HTTPError where Prefect's API is away."""
    latest: dict[str, Stored] = {}
    for stored in await read_all(client):
        process = stored.listed.process.id
        if process not in latest or stored.number > latest[process].number:
            latest[process] = stored
    return [*latest.values()]


async def read_all(client: PrefectClient) -> list[Stored]:
    """The same, and those that processes have begun others after."""
    found = []
    for variable in await read_variables(client, PREFIX):
        name = _NAME.fullmatch(variable["name"])
        if name is None:  # somebody else's variable
            continue
        with suppress(ValidationError):  # somebody wrote into it: its process will write again
            listed = LockList.model_validate(variable["value"])
            updated = datetime.fromisoformat(variable["updated"])
            found.append(Stored(UUID(variable["id"]), int(name["number"]), listed, updated))
    return found


async def create(client: PrefectClient, number: int, listed: LockList) -> Variable:
    """Store a process's list under a number that it has not used yet.

    Raises httpx.HTTPError, and ObjectAlreadyExists where the number was used.
    """
    name, value = f"{PREFIX}{listed.process.id}-{number}", listed.as_stored()
    return await client.create_variable(VariableCreate(name=name, value=value))


async def overwrite(client: PrefectClient, variable_id: UUID, listed: LockList) -> bool:
    """Store a process's list in place of what it stored before; returns whether that still exists.

    Raises httpx.HTTPError.
    """
    try:
        answer = await client.request(
            "PATCH",
            "/variables/{id}",
            path_params={"id": variable_id},
            json={"value": listed.as_stored()},
        )
    except httpx.HTTPStatusError as error:
        if not is_not_found(error):
            raise
        return False
    if answer.status_code != httpx.codes.NO_CONTENT:  # a page of what stands before Prefect
        raise httpx.RemoteProtocolError("Something else than Prefect answered.")
    return True
