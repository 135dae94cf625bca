"""A Prefect server on SQLite, for one machine: `python -m deployments.embedded_server --port 4200`.

It is `prefect server start`, with one difference. On SQLite, Prefect 3.8 leaves a cursor behind
whenever "database is locked"; freeing it waits for its connection, and Python's garbage collector
frees it in the middle of the event loop: the whole server stands still for a minute. Here garbage
is collected in a thread beside the loop. A server on PostgreSQL needs none of this.
"""

import gc
import runpy
import sys
import threading
import time
from itertools import count

PAUSE = 0.2
"""Seconds between two collections."""

FULL_EVERY = 300
"""Of so many collections one looks at everything: once a minute."""


def main() -> None:
    """Start the server in this process, with the options of `prefect server start`."""
    gc.disable()
    threading.Thread(target=_collect, daemon=True).start()
    sys.argv = ["prefect", "server", "start", *sys.argv[1:]]
    runpy.run_module("prefect", run_name="__main__")


def _collect() -> None:
    for number in count(1):
        time.sleep(PAUSE)
        gc.collect(2 if number % FULL_EVERY == 0 else 1)


if __name__ == "__main__":
    main()
