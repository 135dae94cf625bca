"""What the Prefect server is started with."""

from typing import Any

import pytest
from prefect.client.orchestration import get_client

pytestmark = pytest.mark.usefixtures("prefect_api")


async def services() -> dict[str, Any]:
    async with get_client() as client:
        settings = (await client.request("GET", "/admin/settings")).json()
    return dict(settings["server"]["services"])


async def test_it_has_settings_that_suit_many_runs_at_once():
    assert (await services())["task_run_recorder"]["batch_size"] == 200


async def test_what_somebody_set_for_it_stays():
    assert (await services())["event_persister"]["flush_interval"] == 3
