"""One tenant's trouble is not another's: a place that is only waited in is lent."""

from collections.abc import Callable
from datetime import timedelta

from deployments.sandbox.client import SandboxClient
from deployments.stack import Part
from tests.end_to_end.nights import Nights, in_seconds

HANG = 9.0
"""Seconds that the Orders API takes to answer for one tenant."""

ALLOWED = timedelta(seconds=5)
"""What the other may lose by it."""


async def test_a_tenant_whose_orders_api_hangs_does_not_hold_up_another(
    start_worker: Callable[..., Part], sandbox: SandboxClient
) -> None:
    hanging, other = everyone = [Nights(sandbox), Nights(sandbox)]
    tenant = hanging.binding.tenant_id
    sandbox.fault("orders.prepareSnapshot", "slow", tenant_id=tenant, seconds=HANG)
    start_worker(limit=1)
    for nights in everyone:
        await nights.configure(in_seconds(3600))
    due = in_seconds(4)
    # Both fall due together; the one that will hang is done waiting first, and has the place.
    await hanging.reschedule(due, upstreamWaitDuration="PT5S")
    await other.reschedule(due, upstreamWaitDuration="PT6S")

    await other.reach("Completed")
    (close,) = other.closes()
    assert close.closed_at - (due + timedelta(seconds=6 + 1)) < ALLOWED
    await hanging.reach("Completed")
    assert len(hanging.closes()) == 1
