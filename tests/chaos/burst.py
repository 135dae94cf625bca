"""All tenants refresh at once, and the worker is killed in the middle.

    python -m tests.chaos.burst --tenants 200 --rotation strict

Between the server's rotation and our write, a rotated token is in the worker's memory only. A kill
costs no more grants than there are refreshes under way, and none on a server that forgives a
repeated refresh token for some seconds.
"""

import argparse
import asyncio
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks import clock, context, deployment, systems
from blocks import grant as grants
from blocks.binding import Binding
from blocks.grant import Grant
from blocks.oauth import OAuthServer
from deployments.demo import create_work_pool, save_blocks
from deployments.sandbox.client import SandboxClient
from deployments.sandbox.settings import Rotation
from flows.configure import configure_schedule
from flows.contract import DailyOrdersBatchCloseConfigRequest
from tests.chaos.arena import Arena, arena
from tests.chaos.patience import patiently
from tests.chaos.relay import Trap

REFRESH = re.compile(rb"POST /oauth/token ")
AT_ONCE = OAuthServer.model_fields["refreshes_at_once"].default
"""The bound of grants lost, and here also of tenants that are configured at a time."""


@dataclass
class Count:
    """What a burst cost.

    Attributes:
        tenants: How many were due at the same moment.
        closed: How many nights were closed, once.
        locked_out: How many grants are lost.
        named: How many of those are recorded as failed, say so, and have their schedule paused.
        replayed: How often the OAuth server saw a dead token.
        replayed_twice: How many tenants it saw more than one from.
    """

    tenants: int
    closed: int = 0
    locked_out: int = 0
    named: int = 0
    replayed: int = 0
    replayed_twice: int = 0

    def is_good(self, bound: int) -> bool:
        """Whether nobody is lost but the few that may be, and those are named."""
        return (
            self.closed + self.locked_out == self.tenants
            and self.locked_out == self.named <= bound
            and self.replayed <= self.locked_out
            and not self.replayed_twice
        )


async def burst(
    home: Path, *, tenants: int, rotation: Rotation, on_postgres: bool, grace: float = 10
) -> Count:
    """Play it once."""
    bindings = [Binding(f"tenant-{number:04}", "eod") for number in range(tenants)]
    with (
        arena(home, on_postgres=on_postgres) as installation,
        temporary_settings({PREFECT_API_URL: installation.stack.api_url}),
    ):
        installation.start_sandbox(rotation, grace_seconds=grace)
        await create_work_pool()
        await save_blocks(installation.outside_url)
        installation.stack.run("prefect", "--no-prompt", "deploy", "--all")
        with SandboxClient(installation.stack.sandbox_url) as sandbox:
            await _configure(bindings, sandbox)
            await _kill_in_the_middle(installation, tenants)
            await _settle(bindings)
            return await _count(bindings, sandbox)


async def _configure(bindings: Sequence[Binding], sandbox: SandboxClient) -> None:
    """Everybody's grant and schedule, without the journeys around them."""
    server = await systems.oauth_server()
    lead = timedelta(seconds=10 + 0.5 * len(bindings))
    first_run_at = (clock.now() + lead).replace(microsecond=0)
    places = asyncio.Semaphore(AT_ONCE)

    async def one(binding: Binding) -> None:
        wanted = {
            "tenantId": binding.tenant_id,
            "batchId": binding.batch_id,
            "firstRunAt": first_run_at.isoformat(),
            "interval": "P1D",
            "maxRuns": 2,
            "upstreamWaitDuration": f"PT{10 + len(bindings) // 3}S",
            "replicationDelayDuration": "PT5S",
        }
        request = DailyOrdersBatchCloseConfigRequest.model_validate(wanted)
        subject_token = SecretStr(sandbox.subject_token(binding.tenant_id))
        async with places:
            tokens = await server.exchange(subject_token, tenant_id=binding.tenant_id)
            await grants.store(binding, Grant.from_exchange(tokens))
            await configure_schedule.fn(binding, request)

    await asyncio.gather(*(one(binding) for binding in bindings))
    left = (first_run_at - clock.now()).total_seconds()
    await asyncio.sleep(max(0.0, left - 4))  # a worker needs some seconds to start


async def _kill_in_the_middle(installation: Arena, tenants: int) -> None:
    kill = partial(installation.strike, "worker")
    trap = Trap(REFRESH, "act_after", first=tenants // 2, last=tenants // 2, act=kill)
    installation.outside.traps.append(trap)
    installation.start_workers(1)
    if not await asyncio.to_thread(installation.struck.wait, 300):
        raise TimeoutError("the burst never came")
    await asyncio.to_thread(installation.mend, "worker")


async def _settle(bindings: Sequence[Binding]) -> None:
    """Wait until everybody's first night is recorded."""
    left = list(bindings)
    deadline = clock.now() + timedelta(seconds=120 + 3 * len(bindings))
    while left and clock.now() < deadline:
        await asyncio.sleep(2)
        left = [
            it for it in left if (await patiently(partial(context.load, it))).last_batch is None
        ]


async def _count(bindings: Sequence[Binding], sandbox: SandboxClient) -> Count:
    count = Count(len(bindings), replayed=sandbox.verdict().reuse)
    closes = Counter(found.tenant_id for found in sandbox.bindings() for _ in found.closes)
    count.closed = sum(number == 1 for number in closes.values())
    refused = Counter(it.tenant_id for it in sandbox.events() if it.error == "invalid_grant")
    count.replayed_twice = sum(number > 1 for number in refused.values())
    for binding in bindings:
        if (await grants.load(binding)).lost_because is None:
            continue
        count.locked_out += 1
        last = (await context.load(binding)).last_batch
        found = await deployment.find(binding)
        is_told = last and last.status == "FAILED" and "grant is lost" in (last.reason or "")
        count.named += bool(is_told and found and found.paused)
    return count


def main() -> int:
    """Run one burst; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.burst", description=__doc__)
    parser.add_argument("--tenants", type=int, default=200)
    parser.add_argument("--rotation", choices=["strict", "grace"], default="strict")
    parser.add_argument("--db", choices=["sqlite", "postgres"], default="postgres")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="daily-orders-burst-"))
    try:
        count = asyncio.run(
            burst(
                home,
                tenants=options.tenants,
                rotation=options.rotation,
                on_postgres=options.db == "postgres",
            )
        )
    finally:
        shutil.rmtree(home, ignore_errors=True)
    good = count.is_good(AT_ONCE if options.rotation == "strict" else 0)
    counted = " ".join(f"{name}={value}" for name, value in asdict(count).items())
    print(f"burst: rotation={options.rotation} {counted} exit={'ok' if good else 'failed'}")  # noqa: T201
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
