"""What the server does beside its requests."""

import gc
import threading
import time
from datetime import timedelta
from functools import partialmethod
from itertools import count

from docket import Worker

LOOKING_EVERY = timedelta(seconds=1)
"""How often what is due in the background is looked for; Prefect's own services pause for five."""

PAUSE = 1.0
"""Seconds between two collections of garbage."""

FULL_EVERY = 60
"""Of so many collections one looks at everything: once a minute."""


def let_background_work_rest() -> None:
    """Have Prefect's background worker look every LOOKING_EVERY, and not listen for cancelling.

    There is no setting for either. In memory, listening means to poll ten times a second.
    """
    Worker.__init__ = partialmethod(  # type: ignore[method-assign,assignment]
        Worker.__init__,
        minimum_check_interval=LOOKING_EVERY,
        scheduling_resolution=LOOKING_EVERY,
    )
    Worker._cancellation_listener = _listen_to_nobody  # type: ignore[method-assign]  # noqa: SLF001


async def _listen_to_nobody(self: Worker) -> None:
    if session := self._processing_session:
        session.cancellation_ready.set()
        await session.stopping.wait()


def collect_garbage_beside_the_loop() -> None:
    """Collect it in a thread, and nowhere else."""
    gc.disable()
    threading.Thread(target=_collect, daemon=True).start()


def _collect() -> None:
    for number in count(1):
        time.sleep(PAUSE)
        gc.collect(2 if number % FULL_EVERY == 0 else 1)
        if number == FULL_EVERY:
            gc.freeze()  # what is loaded by now stays, and need not be looked at every minute
