"""What the Prefect server is started with."""

from datetime import timedelta
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.server.models import events

from flows.durations import parse_wait

pytestmark = pytest.mark.usefixtures("prefect_api")


async def services() -> dict[str, Any]:
    async with get_client() as client:
        settings = (await client.request("GET", "/admin/settings")).json()
    return dict(settings["server"]["services"])


async def test_it_has_settings_that_suit_many_runs_at_once():
    assert (await services())["task_run_recorder"]["batch_size"] == 200


async def test_what_somebody_set_for_it_stays():
    assert (await services())["event_persister"]["flush_interval"] == 3


async def test_what_the_events_of_a_run_have_in_common_is_remembered_through_its_waits():
    async with get_client() as client:
        settings = (await client.request("GET", "/admin/settings")).json()["server"]
    remembered = parse_wait(settings["events"]["related_resource_cache_ttl"])
    assert remembered >= timedelta(minutes=15 + 5)


def test_prefect_still_remembers_it_where_the_server_makes_room_for_more():
    remembering = events._flow_run_related_resources_from_orm  # noqa: SLF001
    assert "_flow_run_resource_data_cache" in remembering.__code__.co_names
