"""What a reply of the Orders API means: the work is done, it may be asked again, or it is final."""

from datetime import datetime

import httpx
from prefect.logging import get_logger

from blocks.http import Reply, retry_after
from blocks.orders.errors import (
    BatchAlreadyClosedError,
    OrdersBadRequestError,
    OrdersConflictError,
    OrdersError,
    OrdersForbiddenError,
    OrdersNotFoundError,
    OrdersNotOkError,
    OrdersRedirectedError,
    OrdersRefusedError,
    OrdersUnauthorizedError,
    OrdersUnavailableError,
    OrdersUnprocessableError,
    OrdersUnreadableReplyError,
)
from blocks.orders.progress import Progress
from blocks.orders.words import (
    is_json_object,
    says_already_closed,
    says_in_progress,
    says_ok,
    snapshots_named,
)

_NOT_BEGUN = {408, 425, 429}  # too slow, too early, too many: the work was not even begun
_WITHOUT_BODY = {204, 205}  # RFC 9110 15.3.5 and 15.3.6: such a success says nothing more
_PASSING = {202, *_NOT_BEGUN}
_REFUSALS: dict[int, type[OrdersRefusedError]] = {
    400: OrdersBadRequestError,
    401: OrdersUnauthorizedError,
    403: OrdersForbiddenError,
    404: OrdersNotFoundError,
    422: OrdersUnprocessableError,
}

_log = get_logger(__name__)


def judge(reply: Reply, progress: Progress, now: datetime) -> None:
    """Return when the reply shows that the work is done; raise what it means otherwise.

    Raises:
        OrdersUnavailableError: It is no definite answer; `progress` notes if the work may be done.
        OrdersError: Any other of the family; the answer is final.
    """
    status = reply.status
    if status in _PASSING or httpx.codes.is_server_error(status):
        # Behind a gateway's 5xx the work may be done, and after a 202 it will be.
        progress.maybe_done |= status not in _NOT_BEGUN
        raise _unavailable(reply, progress, now)
    if httpx.codes.is_success(status):
        return _judge_success(reply, progress, now)
    if status == httpx.codes.CONFLICT:
        return _judge_conflict(reply, progress, now)
    final: type[OrdersError] = _REFUSALS.get(status, OrdersRefusedError)
    if httpx.codes.is_redirect(status):
        final = OrdersRedirectedError
    raise final(progress.operation, progress.answered(reply), status=status)


def _judge_success(reply: Reply, progress: Progress, now: datetime) -> None:
    """Return if it is a yes, as `says_ok` reads it; one that nobody can read may be one."""
    if reply.status in _WITHOUT_BODY:
        return
    answered = progress.answered(reply)
    ok = says_ok(reply) if is_json_object(reply) else None
    if ok:
        return
    if ok is not None:
        raise OrdersNotOkError(progress.operation, f"{answered} but not ok", status=reply.status)
    progress.maybe_done = True
    unread = "an `ok` that is neither yes nor no" if is_json_object(reply) else "no JSON object"
    raise progress.unavailable(
        f"{answered} with {unread}",
        status=reply.status,
        retry_after=retry_after(reply.headers, now),
        kind=OrdersUnreadableReplyError,
    )


def _judge_conflict(reply: Reply, progress: Progress, now: datetime) -> None:
    """Return if the batch is closed, and by us.

    A body that names a snapshot tells by whom. A bare "already closed" proves no more than that;
    it counts as our own close if an earlier attempt of ours may have done it.
    """
    answered = progress.answered(reply)
    if says_already_closed(reply):
        named, ours = snapshots_named(reply), progress.snapshot_id
        if ours and (named == {ours} or (progress.maybe_done and not named)):
            _log.info("%s %s by an earlier attempt of ours.", progress.operation, answered)
            return
        raise BatchAlreadyClosedError(progress.operation, answered, status=reply.status)
    if says_in_progress(reply):
        raise _unavailable(reply, progress, now)
    raise OrdersConflictError(progress.operation, answered, status=reply.status)


def _unavailable(reply: Reply, progress: Progress, now: datetime) -> OrdersUnavailableError:
    return progress.unavailable(
        progress.answered(reply),
        status=reply.status,
        retry_after=retry_after(reply.headers, now),
    )
