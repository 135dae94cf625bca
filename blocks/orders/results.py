"""What the two operations yield, read out of a successful reply."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from blocks.http import Reply
from blocks.orders.errors import OrdersMalformedReplyError
from blocks.orders.words import is_json_object

SNAPSHOT_ID_BYTES = 255
"""What is stored from night to night fits into one Prefect variable, with the id in it twice."""

_A_DAY = timedelta(days=1)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Snapshot:
    """A prepared snapshot of a batch."""

    snapshot_id: str


@dataclass(frozen=True)
class Closed:
    """A closed batch; `closed_at` is None where the Orders API does not tell the moment."""

    closed_at: datetime | None


def read_snapshot(reply: Reply, operation: str) -> Snapshot:
    """The snapshot that the reply names; raises OrdersMalformedReplyError where it names none."""
    snapshot_id = _body(reply).get("snapshotId")
    # Unprintable ones (a NUL, half a surrogate pair) could neither be sent nor stored again.
    if isinstance(snapshot_id, str) and snapshot_id.strip() and snapshot_id.isprintable():
        if len(snapshot_id.encode()) <= SNAPSHOT_ID_BYTES:
            return Snapshot(snapshot_id)
        happened = f"was answered with a snapshotId of more than {SNAPSHOT_ID_BYTES} bytes"
    else:
        happened = "was answered without a snapshotId that is a non-empty, printable string"
    raise OrdersMalformedReplyError(operation, happened, status=reply.status)


def read_closed(reply: Reply) -> Closed:
    """The close, with its moment in UTC where the reply has one (RFC 3339, with an offset).

    A moment that cannot be read is left out: the batch is closed all the same.
    """
    return Closed(_moment(_body(reply).get("closedAt")))


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        if moment is None or moment.tzinfo is None:
            return None
        in_utc = moment.astimezone(UTC)
        # The first and the last day that a computer can name are placeholders, and whoever shows
        # one in a time zone of its own fails.
        return in_utc if min(in_utc - _FIRST, _LAST - in_utc) >= _A_DAY else None
    except (ValueError, OverflowError):
        return None


def _body(reply: Reply) -> dict[str, Any]:
    """The body; empty where a success has none (204)."""
    return reply.json_object() if is_json_object(reply) else {}
