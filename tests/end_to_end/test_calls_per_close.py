"""What a close asks of the Prefect API, which decides how many shops one server bears."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pytest
from pydantic import SecretStr

from benchmarks.calls import Since, count_requests
from blocks import clock, systems
from blocks import grant as grants
from blocks.grant import Grant
from deployments.sandbox.client import SandboxClient
from deployments.stack import Stack
from tests.end_to_end.nights import Nights, in_seconds, until

MOST_REQUESTS = 16.0
MOST_EVENTS = 18.0
"""For a first close, what goes by the clock left out."""

FEW, MANY = 3, 9
TOLERANCE = 1.5
"""What a worker asks before its first run of a flow is shared by those that come with it."""

WAITS = {"upstreamWaitDuration": "PT7S", "replicationDelayDuration": "PT4S"}
"""Far more than what is done in between, or they would be slept in place."""

BY_THE_CLOCK = ("/api/work_pools/", "/api/flow_runs/filter", "/api/logs/")
"""What a worker asks every so many seconds, however much or little there is to close."""

OF_NO_RUN = ("prefect.deployment.", "prefect.work-pool.", "prefect.work-queue.")
"""A deployment becomes ready when it is first looked at."""


@dataclass(frozen=True)
class Costs:
    """What each close took: requests, and events sent over the WebSocket."""

    requests: float
    events: float


@pytest.fixture(scope="module")
async def costs(installation: Stack) -> AsyncIterator[dict[int, Costs]]:
    """By how many tenants fell due at once. Nobody but the worker asks anything meanwhile."""
    worker = installation.start_worker("worker-of-many")
    try:
        with SandboxClient(installation.sandbox_url) as sandbox:
            # Many first, so that they and not the few pay for what the worker asks but once.
            yield {count: await measure(installation, sandbox, count) for count in (MANY, FEW)}
    finally:
        worker.stop()


async def measure(installation: Stack, sandbox: SandboxClient, tenants: int) -> Costs:
    """What it takes from the moment that all are due until all are recorded."""
    everyone = [Nights(sandbox) for _ in range(tenants)]
    due = await nearly_due(everyone)
    log = next(part.log for part in installation.parts if part.name == "server")
    begin, since = log.stat().st_size, Since(log, installation)

    latest: deque[int] = deque(maxlen=10)

    def is_quiet() -> bool:
        """Whether nothing more was asked since ten looks ago, a second."""
        with log.open(errors="replace") as lines:
            lines.seek(begin)
            latest.append(besides(BY_THE_CLOCK, count_requests(lines)))
        return latest.count(latest[0]) == latest.maxlen

    await until("all to close", lambda: all(nights.closes() for nights in everyone))
    await until("the last words", is_quiet)
    calls = await since.count(due)
    events = besides(OF_NO_RUN, calls.events)
    return Costs(besides(BY_THE_CLOCK, calls.requests) / tenants, events / tenants)


def besides(left_out: Sequence[str], counts: Mapping[str, int]) -> int:
    """How many of these there are without those that are left out."""
    return sum(
        count for what, count in counts.items() if not any(part in what for part in left_out)
    )


async def set_up(nights: Nights) -> None:
    """What the configure flow obtains, without the flow."""
    server, token = await systems.oauth_server(), SecretStr(nights.caller_token())
    tokens = await server.exchange(token, tenant_id=nights.binding.tenant_id)
    await grants.store(nights.binding, Grant.from_exchange(tokens))


async def nearly_due(everyone: Sequence[Nights]) -> datetime:
    """Have all fall due at the same moment; returns it shortly before it comes."""
    await asyncio.gather(*(set_up(nights) for nights in everyone))
    due = in_seconds(3 + len(everyone) / 3)
    for nights in everyone:
        await nights.reschedule(due, interval="P1D", maxRuns=365, **WAITS)
    left = (due - clock.now()).total_seconds()
    assert left > 0, "setting up took too long to count anything"
    await asyncio.sleep(max(0.0, left - 0.5))
    return due


def test_a_close_among_many_asks_no_more_than_one_among_few(costs: dict[int, Costs]) -> None:
    assert costs[MANY].requests <= costs[FEW].requests + TOLERANCE
    assert costs[MANY].events <= costs[FEW].events + TOLERANCE


def test_a_close_asks_no_more_than_was_allowed_for(costs: dict[int, Costs]) -> None:
    assert costs[MANY].requests <= MOST_REQUESTS
    assert costs[MANY].events <= MOST_EVENTS
