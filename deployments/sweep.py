"""What nobody needs any more is deleted by the workers: callers' tokens, grants, lists of locks.

Every flow deletes what it does not need itself. But a worker may be killed before it comes to that,
a run cancelled before it began or deleted, an API killed between two requests. So each worker looks
every `sweep_seconds`, at callers' tokens each time, at the rest every fifth time. Several that look
at once do no harm: what is gone already is fine, and grants are changed under their locks.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from prefect.client.orchestration import PrefectClient
from prefect.logging import get_logger

from blocks.lock import delete_left
from blocks.process import seconds_of
from deployments.unneeded_grants import UnneededGrants
from deployments.unneeded_tokens import delete_unneeded

SWEEP_SECONDS = "BATCH_CLOSE_SWEEP_SECONDS"
"""The environment variable for how often a worker looks."""

SHORTEST, LONGEST = 1.0, 600.0

GRANTS_EVERY = 5
"""At every fifth look also at the grants, as many as batches, and at what processes have locked."""

logger = get_logger("sweep")


def sweep_seconds() -> float:
    """How often a worker looks; raises ValueError where SWEEP_SECONDS is no number of seconds."""
    return seconds_of(SWEEP_SECONDS, 60, SHORTEST, LONGEST)


class Sweep:
    """The looks of one worker."""

    def __init__(self) -> None:
        self._looks = 0
        self._grants = UnneededGrants()

    async def look(self, client: PrefectClient) -> Exception | None:
        """Delete what nobody needs; what cannot be looked at now is looked at the next time.

        Returns what was in the way, if anything was.
        """
        trouble = await _try("Callers' tokens", partial(delete_unneeded, client))
        if self._looks % GRANTS_EVERY == 0:
            trouble = await _try("Lists of locks", partial(delete_left, client)) or trouble
            trouble = await _try("Grants", partial(self._grants.look, client)) or trouble
        self._looks += 1
        return trouble


async def _try(what: str, look: Callable[[], Awaitable[None]]) -> Exception | None:
    try:
        await look()
    except Exception as trouble:  # noqa: BLE001  (there is a next time)
        # Its kind only: what it says may quote what was read.
        logger.warning("%s are not looked through now (%s).", what, type(trouble).__name__)
        return trouble
    return None
