"""The Secret blocks of one kind, found by how their names begin, without what they hold."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

PAGE = 200


@dataclass(frozen=True)
class StoredSecret:
    """A Secret block, without its value.

    Attributes:
        id: Of the block document.
        name: Its name.
        updated: When it was stored last, by the Prefect server's clock.
    """

    id: UUID
    name: str
    updated: datetime


async def find_all(prefix: str) -> list[StoredSecret]:
    """Every Secret block whose name begins so; raises httpx.HTTPError where Prefect is away."""
    found = [_stored(it) for it in await _documents({"name": {"like_": prefix}})]
    # Prefect finds names that have it anywhere, in whatever case.
    return [it for it in found if it.name.startswith(prefix)]


async def find(name: str) -> StoredSecret | None:
    """The Secret block of this name; None where Prefect says that there is none."""
    found = await _documents({"name": {"any_": [name]}})
    return _stored(found[0]) if found else None


async def read_value(name: str) -> object:
    """What the Secret block of this name holds; raises LookupError where there is none.

    Asked as a list: the 404 of a gateway whose server is being replaced is no evidence.
    """
    found = await _documents({"name": {"any_": [name]}}, include_secrets=True)
    if not found:
        raise LookupError(name)
    return found[0]["data"].get("value")


async def delete(block_id: UUID) -> None:
    """Delete a block; one that is gone already is fine."""
    async with get_client() as client:
        try:
            await client.delete_block_document(block_id)
        except ObjectNotFound:
            return


async def _documents(
    wanted: dict[str, Any], *, include_secrets: bool = False
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        query = {
            "block_documents": wanted,
            "block_types": {"slug": {"any_": ["secret"]}},
            "include_secrets": include_secrets,
            "limit": PAGE,
            "offset": len(found),
        }
        async with get_client() as client:
            page = (await client.request("POST", "/block_documents/filter", json=query)).json()
        found += page
        if len(page) < PAGE:
            return found


def _stored(document: dict[str, Any]) -> StoredSecret:
    updated = datetime.fromisoformat(document["updated"])
    return StoredSecret(UUID(document["id"]), document["name"] or "", updated)
