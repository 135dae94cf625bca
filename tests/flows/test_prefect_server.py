"""What the Prefect server is started with."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from deployments.prefect_server.settings import as_environment
from flows.durations import parse_wait

pytestmark = pytest.mark.usefixtures("prefect_api")


async def settings() -> dict[str, Any]:
    async with get_client() as client:
        return dict((await client.request("GET", "/admin/settings")).json()["server"])


async def test_it_has_settings_that_suit_many_runs_at_once():
    assert (await settings())["services"]["task_run_recorder"]["batch_size"] == 200


async def test_what_somebody_set_for_it_stays():
    assert (await settings())["services"]["event_persister"]["flush_interval"] == 3


async def test_what_the_events_of_a_run_have_in_common_is_remembered_through_its_waits():
    remembered = parse_wait((await settings())["events"]["related_resource_cache_ttl"])
    assert remembered >= timedelta(minutes=15 + 5)


def test_a_server_that_is_started_in_another_way_is_told_to_have_the_same():
    page = (Path(__file__).parents[2] / "docs/many-tenants.md").read_text()
    told = dict(re.findall(r"^\| `(PREFECT_SERVER_\w+)` \| `?([\w]+)`? \|", page, re.MULTILINE))
    assert told == as_environment()


async def test_a_work_queue_can_be_paused_though_its_writer_reads_by_another_session(
    prefect_api: None,
) -> None:
    name = f"pool-{uuid4().hex[:8]}"
    async with get_client() as client:
        await client.create_work_pool(WorkPoolCreate(name=name, type="batch-close"))
        queue = await client.read_work_queue_by_name("default", work_pool_name=name)
        async with asyncio.timeout(10):
            await client.update_work_queue(queue.id, is_paused=True)
        assert (await client.read_work_queue(queue.id)).is_paused
