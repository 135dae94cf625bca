"""How SIGTERM ends a worker: politely, so that its runs are handed over, and wherever it runs.

Prefect's command has SIGTERM do what SIGINT does. That is nothing where SIGINT is ignored, as by
every process that a script has started in the background (POSIX 2.11, asynchronous lists).
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDS_WITHIN = 10.0
"""Seconds that the process then has to end.

Python waits for Prefect's threads that report logs and events, and they try each event for many
seconds while Prefect is away. Kubernetes kills what has not ended 30 seconds after it was told to.
"""


@contextmanager
def until_sigterm() -> Iterator[None]:
    """Cancel what is in the block when SIGTERM comes, and end it; a second one ends the process.

    After the block the process ends within ENDS_WITHIN.

    Without an effect outside the main thread, where Python lets nobody handle signals.
    """
    task, told = asyncio.current_task(), False
    if task is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def end() -> None:
        nonlocal told
        told = True
        loop.remove_signal_handler(signal.SIGTERM)
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        yield
    except asyncio.CancelledError:
        if not told or task.uncancel():
            raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        if told:
            _end_soon()


def _end_soon() -> None:
    ending = threading.Timer(ENDS_WITHIN, _end)
    ending.daemon = True  # or it would be waited for, too
    ending.start()


def _end() -> None:
    try:
        print(  # noqa: T201
            "The worker's last logs and events may not be reported: Prefect took them too slowly.",
            file=sys.stderr,
            flush=True,
        )
    finally:
        os._exit(0)
