"""The Orders API: its block with two operations, what they yield, how they fail."""

from blocks.orders.api import OrdersApi
from blocks.orders.call import TokenSource
from blocks.orders.errors import (
    BatchAlreadyClosedError,
    OrdersBadRequestError,
    OrdersConflictError,
    OrdersError,
    OrdersForbiddenError,
    OrdersMalformedReplyError,
    OrdersNotFoundError,
    OrdersNotOkError,
    OrdersRedirectedError,
    OrdersRefusedError,
    OrdersReplyTooLargeError,
    OrdersUnauthorizedError,
    OrdersUnavailableError,
    OrdersUnprocessableError,
    OrdersUnreadableReplyError,
    OrdersUnsendableError,
)
from blocks.orders.idempotency import idempotency_key
from blocks.orders.pace import Pace
from blocks.orders.results import Closed, Snapshot

__all__ = [
    "BatchAlreadyClosedError",
    "Closed",
    "OrdersApi",
    "OrdersBadRequestError",
    "OrdersConflictError",
    "OrdersError",
    "OrdersForbiddenError",
    "OrdersMalformedReplyError",
    "OrdersNotFoundError",
    "OrdersNotOkError",
    "OrdersRedirectedError",
    "OrdersRefusedError",
    "OrdersReplyTooLargeError",
    "OrdersUnauthorizedError",
    "OrdersUnavailableError",
    "OrdersUnprocessableError",
    "OrdersUnreadableReplyError",
    "OrdersUnsendableError",
    "Pace",
    "Snapshot",
    "TokenSource",
    "idempotency_key",
]
