"""The access log names paths, and nothing of a query: people put tokens there."""

import logging

ACCESS = logging.getLogger("uvicorn.access")
TARGET = 2
"""Which of uvicorn's arguments is the path with its query."""


def leave_out_queries() -> None:
    """Have uvicorn's access log end each path at its question mark."""
    ACCESS.addFilter(_without_query)  # a second time changes nothing


def _without_query(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple) and len(record.args) > TARGET:
        told = list(record.args)
        told[TARGET] = str(told[TARGET]).partition("?")[0]
        record.args = tuple(told)
    return True
