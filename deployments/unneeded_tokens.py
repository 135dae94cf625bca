"""Callers' tokens that no journey is about to take: their Secret blocks are deleted.

A token of a journey's own is needed until that run has ended; it may be stored a moment before
there is a run. One that somebody handed over by hand is kept for an hour, in which it may serve for
a corrected run. None is kept for more than a day: some runs never end.
Nobody's other Secret is touched: only names of this one kind are looked at.
"""

from collections.abc import Sequence

from prefect.client.orchestration import PrefectClient
from prefect.logging import get_logger

from blocks import caller_token, clock, secret_blocks
from blocks.secret_blocks import StoredSecret
from deployments.unfinished_journeys import read_unfinished, tokens_named

logger = get_logger("sweep")


async def delete_unneeded(client: PrefectClient) -> None:
    """Delete the callers' tokens that no journey is about to take, and those that are too old.

    One that cannot be deleted holds up no other. Raises httpx.HTTPError where Prefect is away.
    """
    found = await secret_blocks.find_all(caller_token.PREFIX)
    stored = [it for it in found if caller_token.is_callers(it.name)]
    now = clock.now()
    # Whatever journeys there are, and whether or not Prefect tells of them.
    too_old = [it for it in stored if now - it.updated >= caller_token.KEPT_AT_MOST]
    await _delete(too_old)
    due = [it for it in stored if now - it.updated >= caller_token.kept_for(it)]
    # In this order: a run that was made meanwhile is found, and names what it needs.
    needed = tokens_named(await read_unfinished(client)) if stored else set()
    await _delete([it for it in due if it not in too_old and it.name not in needed])


async def _delete(tokens: Sequence[StoredSecret]) -> None:
    for it in tokens:
        try:
            await secret_blocks.delete(it.id)
        except Exception as error:  # noqa: BLE001  (whatever it is, the next one's turn comes)
            logger.warning("The block %s is not deleted now (%s).", it.name, type(error).__name__)
        else:
            logger.info("The block %s held a caller's token that nobody needs: deleted.", it.name)
