"""The two ways of doing the same job: this project's, and how it is usually written on Prefect."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol
from zlib import crc32

from prefect.blocks.system import Secret
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.schedules import IntervalSchedule
from pydantic import SecretStr

from benchmarks.usual_way import close_orders
from blocks import grant as grants
from blocks import systems
from blocks.binding import Binding
from blocks.grant import Grant
from deployments.demo import create_work_pool, save_blocks
from deployments.sandbox.client import SandboxClient
from deployments.stack import WORK_POOL, Stack
from flows.configure import configure_schedule
from flows.contract import DailyOrdersBatchCloseConfigRequest

PROJECT = Path(__file__).parents[1]
BATCH = "eod"
UPSTREAM_WAIT = timedelta(seconds=20)
REPLICATION_DELAY = timedelta(seconds=10)


class Way(Protocol):
    """How the job is done."""

    name: str
    worker: str
    pool: str
    is_ours: bool
    rehearsed: int
    """How many tenants are closed once before, so that processes have grown to their size."""

    async def prepare(self, installation: Stack) -> None:
        """Whatever has to be done once."""

    async def configure(self, sandbox: SandboxClient, tenant: str, due: datetime) -> None:
        """Set up the nights of a tenant, from this moment on."""


class BatchClose:
    """This project: what a journey does for a tenant, without the journey around it."""

    name = "this project"
    worker = "batch-close"
    pool = WORK_POOL
    is_ours = True
    rehearsed = 200

    async def prepare(self, installation: Stack) -> None:
        """What its README says to do."""
        await create_work_pool()
        await save_blocks(installation.sandbox_url)
        deploy = ("prefect", "--no-prompt", "deploy", "--all")
        await asyncio.to_thread(installation.run, *deploy, cwd=PROJECT)

    async def configure(self, sandbox: SandboxClient, tenant: str, due: datetime) -> None:
        """The grant exchanged and stored, the deployment with its schedule."""
        binding = Binding(tenant, BATCH)
        await grants.store(binding, await _exchange(sandbox, tenant))
        await configure_schedule.fn(binding, request_of(binding, due))


class UsualWay:
    """`usual_way.py`, deployed for each tenant, on Prefect's own process worker."""

    name = "the usual way"
    worker = "process"
    pool = "usual"
    is_ours = False
    rehearsed = 1  # each of its runs has a process of its own: none has grown

    def __init__(self) -> None:
        self._url = ""

    async def prepare(self, installation: Stack) -> None:
        """A work pool of type process."""
        self._url = installation.sandbox_url
        await save_blocks(self._url)
        async with get_client() as client:
            await client.create_work_pool(WorkPoolCreate(name=self.pool, type=self.worker))

    async def configure(self, sandbox: SandboxClient, tenant: str, due: datetime) -> None:
        """The refresh token in a Secret block, and a deployment with a daily schedule."""
        grant = await _exchange(sandbox, tenant)
        token: Secret[str] = Secret(value=grant.refresh_token.get_secret_value())
        await token.asave(f"refresh-token-{tenant}", overwrite=True)
        async with get_client() as client:
            await self._deploy(client, tenant, due)

    async def _deploy(self, client: PrefectClient, tenant: str, due: datetime) -> None:
        schedule = IntervalSchedule(interval=timedelta(days=1), anchor_date=due)
        deployment = await client.create_deployment(
            flow_id=await client.create_flow(close_orders),
            name=tenant,
            schedules=[DeploymentScheduleCreate(schedule=schedule)],
            parameters={"tenant": tenant, "batch": BATCH, "url": self._url},
            work_pool_name=self.pool,
            path=str(PROJECT),
            entrypoint="benchmarks/usual_way.py:close_orders",
        )
        # By itself the scheduler may take a minute, and the moment may have passed by then.
        await client.request(
            "POST", "/deployments/{id}/schedule", path_params={"id": deployment}, json={}
        )


async def _exchange(sandbox: SandboxClient, tenant: str) -> Grant:
    server = await systems.oauth_server()
    subject_token = SecretStr(sandbox.subject_token(tenant))
    return Grant.from_exchange(await server.exchange(subject_token, tenant_id=tenant))


def _nights(binding: Binding) -> int:
    # Not the same for all, because no two shops are configured alike: what is computed from one
    # tenant's request is of no use for the next.
    return 300 + crc32(binding.tenant_id.encode()) % 100


def request_of(binding: Binding, due: datetime) -> DailyOrdersBatchCloseConfigRequest:
    """Nights from this moment on, with the waits of a stampede."""
    return DailyOrdersBatchCloseConfigRequest(
        tenant_id=binding.tenant_id,
        batch_id=binding.batch_id,
        first_run_at=due.isoformat(),
        interval="P1D",
        max_runs=_nights(binding),
        upstream_wait_duration=f"PT{UPSTREAM_WAIT.total_seconds():.0f}S",
        replication_delay_duration=f"PT{REPLICATION_DELAY.total_seconds():.0f}S",
    )
