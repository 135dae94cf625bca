"""What is locked at the moment, by whichever process."""

import asyncio

from prefect.client.orchestration import get_client

from blocks.lock_list import digest, read_lists


async def is_locked(name: str) -> bool:
    """Whether any process has this lock on its list."""
    async with get_client() as client:
        return any(digest(name) in it.listed.locked for it in await read_lists(client))


async def is_released(name: str, *, patience: float = 5) -> bool:
    """Whether nobody has it after a moment: others are told of a release in the background."""
    try:
        async with asyncio.timeout(patience):
            while await is_locked(name):  # noqa: ASYNC110  (another process's)
                await asyncio.sleep(0.1)
    except TimeoutError:
        return False
    return True
