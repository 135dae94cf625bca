"""Runs that Prefect laid out for a schedule after that was changed: they are no nights.

Prefect deletes the runs of a changed schedule that are to come and have not begun. But its
scheduler reads a schedule first and lays out its runs later: what it read just before the change
comes just after. Such a run has what was configured before, at the hour of before.
"""

from contextlib import suppress
from datetime import datetime, timedelta

from blocks.binding import Binding
from blocks.standing import Standing
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.recurrence import schedule_of
from flows.requests import UnreadableRequestError, read_request

LAID_OUT_WITHIN = timedelta(minutes=1)
"""How long one laying out may take: its runs may be made before a change, and be seen after it."""

NIGHTS_AHEAD = 3
"""So many nights of a schedule stand in Prefect, and with each that begins one is laid out."""

SCHEDULER_TAKES = timedelta(minutes=5)
"""How late that may be."""


def changed_before(
    stands: Standing,
    request: DailyOrdersBatchCloseConfigRequest,
    occurrence: datetime,
    laid_out_at: datetime,
) -> datetime | None:
    """When the schedule was changed, if this run was laid out for it only after that; or None.

    What was laid out long before the change, and is there all the same, had begun or was due by
    then: it stays a night. So does every run where somebody edited in Prefect what stands.

    Args:
        stands: The deployment as it stands now.
        request: What the run was configured with.
        occurrence: When the run was to start.
        laid_out_at: When Prefect made it.
    """
    changed_at, now = stands.changed_at, _configured_now(stands, request)
    if now is None or now == request or not stands.follows(schedule_of(now.recurrence)):
        return None
    if changed_at is None or now.recurrence.number_of(occurrence) is not None:
        return None
    is_later = laid_out_at > changed_at - LAID_OUT_WITHIN and occurrence > changed_at
    return changed_at if is_later else None


def may_be_changed(laid_out_at: datetime, occurrence: datetime, next_due: datetime) -> bool:
    """Whether the run was laid out so late that the schedule may have been changed before.

    So are the first nights of every schedule, and those after new code was deployed.
    """
    usual = NIGHTS_AHEAD * (next_due - occurrence) - SCHEDULER_TAKES
    return occurrence - laid_out_at < usual


def _configured_now(
    stands: Standing, request: DailyOrdersBatchCloseConfigRequest
) -> DailyOrdersBatchCloseConfigRequest | None:
    binding = Binding(request.tenant_id, request.batch_id)
    with suppress(UnreadableRequestError):
        return read_request(binding, stands.parameters.get("configured"))
    return None
