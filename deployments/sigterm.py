"""How SIGTERM ends a worker: politely, so that its runs are handed over, and wherever it runs.

Prefect's command has SIGTERM do what SIGINT does. That is nothing where SIGINT is ignored, as by
every process that a script has started in the background (POSIX 2.11, asynchronous lists).
"""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def until_sigterm() -> Iterator[None]:
    """Cancel what is in the block when SIGTERM comes, and end it; a second one ends the process.

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
