"""What the Prefect server is started with."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from prefect.client.orchestration import get_client
from prefect.server.database.orm_models import BlockDocument, BlockSchema, BlockType
from prefect.server.models import events
from sqlalchemy.orm import Session

from deployments.prefect_server import look_in_the_session_first
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


def test_a_block_of_a_type_that_was_read_before_is_read_in_one_query():
    look_in_the_session_first()
    engine = sa.create_engine("sqlite://")
    tables = [model.__table__ for model in (BlockType, BlockSchema, BlockDocument)]
    BlockType.metadata.create_all(engine, tables)
    with Session(engine) as session:
        kind = BlockType(name="Secret", slug="secret")
        session.add(kind)
        session.flush()
        schema = BlockSchema(checksum="1", version="1", fields={}, block_type_id=kind.id)
        session.add(schema)
        session.flush()
        a_grant = {"block_type_id": kind.id, "block_schema_id": schema.id, "data": {}}
        session.add_all(BlockDocument(name=name, **a_grant) for name in ("acme", "globex"))
        session.commit()
    queries: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *called: queries.append(called[2]))
    with Session(engine) as session:
        acme = session.scalars(sa.select(BlockDocument).filter_by(name="acme")).one()
        queries.clear()
        globex = session.scalars(sa.select(BlockDocument).filter_by(name="globex")).one()
        assert len(queries) == 1
        assert globex.block_schema is acme.block_schema
        assert globex.block_type.slug == "secret"
