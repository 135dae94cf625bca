"""What evolves from night to night and is no secret: a Prefect variable for each binding.

It lives in Prefect's database, not on a worker's disk, so that whichever machine goes on with a
night finds what was already done.
"""

from functools import partial

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.exceptions import ObjectAlreadyExists
from prefect.logging import get_logger
from pydantic import ValidationError

from blocks.binding import Binding
from blocks.outcome import LastBatch
from blocks.ownership import require_lease
from blocks.progress import Context, Progress
from blocks.together import Together

__all__ = ["Context", "LastBatch", "Progress", "load", "store"]


async def load(binding: Binding) -> Context:
    """The binding's context; an empty one before its first night."""
    name = _stored_name(binding)
    return await _together.get(name) or (await _read([name]))[name]


async def _read(names: list[str]) -> dict[str, Context]:
    wanted = {"variables": {"name": {"any_": names}}}
    async with get_client() as client:
        response = await client.request("POST", "/variables/filter", json=wanted)
    stored = {it["name"]: _readable(it["name"], it["value"]) for it in response.json()}
    return {name: stored.get(name) or Context(is_new=True) for name in names}


def _readable(name: str, value: object) -> Context:
    """The stored context; an empty one where somebody made it unreadable, as if it was deleted."""
    try:
        return Context.model_validate(value)
    except ValidationError:
        get_logger("context").warning("Variable %s cannot be read: nothing is known then.", name)
        return Context()


_together = Together(_read, most=50)


async def store(binding: Binding, context: Context) -> None:
    """Store the binding's context, replacing what is there.

    Raises OwnershipLostError and OwnershipUnknownError.
    """
    await require_lease()
    name, value = _stored_name(binding), context.as_stored()
    async with get_client() as client:
        create = partial(client.create_variable, VariableCreate(name=name, value=value))
        update = partial(client.update_variable, VariableUpdate(name=name, value=value))
        try:
            await (create if context.is_new else update)()
        except ObjectAlreadyExists:
            await update()
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise
            await create()
    context.is_new = False


def _stored_name(binding: Binding) -> str:
    return f"batch-close-{binding.slug}"
