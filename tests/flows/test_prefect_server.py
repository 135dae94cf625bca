"""What the Prefect server is started with."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import aiosqlite
import pendulum
import pytest
import sqlalchemy as sa
from docket import Docket, Worker
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.server.database.orm_models import (
    Base,
    BlockDocument,
    BlockSchema,
    BlockType,
    ConcurrencyLimitV2,
    Deployment,
    DeploymentSchedule,
    Event,
    EventResource,
    Flow,
    Variable,
    WorkPool,
    WorkQueue,
)
from prefect.server.events import clients
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.events.storage.database import write_events
from prefect.server.models import events, variables
from prefect.server.utilities.database import Timestamp
from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_cursor
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from blocks.binding import Binding
from deployments.prefect_server.background import LOOKING_EVERY, let_background_work_rest
from deployments.prefect_server.database import ask_in_one_go, bind_plain_datetime
from deployments.prefect_server.events import (
    emit_no_events_of_own_variables,
    write_events_as_on_postgresql,
)
from deployments.prefect_server.reads import look_in_the_session_first
from flows.durations import parse_wait
from tests.flows.queries import queries

MAPPED: tuple[Any, ...] = (
    *(BlockType, BlockSchema, BlockDocument),
    *(Flow, Deployment, DeploymentSchedule, ConcurrencyLimitV2, WorkPool, WorkQueue),
)

IDS = [("acme", "eod"), ("Ünï Tenant", "a-b"), ("---", "!")]

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


@pytest.mark.parametrize("dialect", [postgresql.dialect(), sqlite.dialect()])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_the_database_is_given_the_same_moment_as_a_plain_datetime(dialect: Dialect, zone: str):
    # The second 02:30 of the night in which summer time ends.
    moment = pendulum.datetime(2026, 10, 25, 1, 30, 0, 123456, tz="UTC").in_timezone(zone)
    bound = bind_plain_datetime(Timestamp(), moment, dialect)
    assert type(bound) is datetime
    assert bound.astimezone(UTC) == moment.astimezone(UTC)


@pytest.mark.parametrize("dialect", [postgresql.dialect(), sqlite.dialect()])
def test_no_moment_stays_none(dialect: Dialect):
    assert bind_plain_datetime(Timestamp(), None, dialect) is None


@pytest.fixture
def database() -> Iterator[Session]:
    """Prefect's tables, read as the server reads them."""
    look_in_the_session_first()
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine, [mapped.__table__ for mapped in MAPPED])
    with Session(engine) as session:
        yield session


def test_a_block_of_a_type_that_was_read_before_is_read_in_one_query(database: Session):
    kind = BlockType(name="Secret", slug="secret")
    schema = BlockSchema(checksum="1", version="1", fields={}, block_type=kind)
    for name in ("acme", "globex"):
        grant = BlockDocument(name=name, data={}, block_type=kind, block_schema=schema)
        database.add(grant)
    database.commit()
    database.expunge_all()
    acme = database.scalars(sa.select(BlockDocument).filter_by(name="acme")).one()
    with queries(database) as made:
        globex = database.scalars(sa.select(BlockDocument).filter_by(name="globex")).one()
        assert globex.block_schema is acme.block_schema
        assert globex.block_type.slug == "secret"
    assert len(made) == 1


def test_deployments_of_several_work_pools_are_read_with_all_they_refer_to(database: Session):
    flow = Flow(name="daily-close")
    for pool in (WorkPool(name=name, type="process") for name in ("one", "other")):
        for name in ("first", "second"):
            queue = WorkQueue(name=name, priority=1, work_pool=pool)
            database.add(Deployment(name=f"{pool.name}-{name}", flow=flow, work_queue=queue))
    database.commit()
    database.expunge_all()
    deployments = database.scalars(sa.select(Deployment)).all()
    with queries(database) as made:
        for each in deployments:
            assert each.work_queue
            assert each.work_queue.work_pool
            assert each.name == f"{each.work_queue.work_pool.name}-{each.work_queue.name}"
    assert len(deployments) == 4
    assert not made, "the server cannot ask for more once it writes its answer"


@pytest.fixture
async def sqlite_database() -> AsyncIterator[AsyncSession]:
    write_events_as_on_postgresql()
    engine = create_async_engine("sqlite+aiosqlite://")
    tables = [Event.__table__, EventResource.__table__]
    async with engine.begin() as connection:
        await connection.run_sync(lambda it: Base.metadata.create_all(it, tables))
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


@pytest.fixture
async def asked_in_one_go(
    sqlite_database: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> AsyncConnection:
    monkeypatch.setattr(AsyncAdapt_aiosqlite_cursor, "execute", AsyncAdapt_aiosqlite_cursor.execute)
    ask_in_one_go()
    connection = await sqlite_database.connection()
    await connection.exec_driver_sql("CREATE TABLE number (it INTEGER PRIMARY KEY)")
    return connection


async def test_a_statement_on_sqlite_takes_its_connections_thread_once(
    asked_in_one_go: AsyncConnection, monkeypatch: pytest.MonkeyPatch
):
    taken = []
    execute = aiosqlite.Connection._execute  # noqa: SLF001

    async def note(self: Any, *called: Any) -> Any:
        taken.append(called)
        return await execute(self, *called)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", note)
    added = await asked_in_one_go.exec_driver_sql("INSERT INTO number VALUES (?), (?)", (7, 8))
    found = await asked_in_one_go.exec_driver_sql("SELECT it FROM number ORDER BY it")
    assert len(taken) == 2
    assert (added.rowcount, added.lastrowid) == (2, 8)
    assert [*found.keys()] == ["it"]
    assert found.all() == [(7,), (8,)]


async def test_what_sqlite_refuses_is_raised_as_ever_and_the_next_statement_is_answered(
    asked_in_one_go: AsyncConnection,
):
    await asked_in_one_go.exec_driver_sql("INSERT INTO number VALUES (7)")
    with pytest.raises(IntegrityError, match="UNIQUE constraint failed"):
        await asked_in_one_go.exec_driver_sql("INSERT INTO number VALUES (7)")
    found = await asked_in_one_go.exec_driver_sql("SELECT it FROM number")
    assert found.all() == [(7,)]


async def test_rows_that_are_streamed_are_still_fetched_a_few_at_a_time(
    asked_in_one_go: AsyncConnection,
):
    endless = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    async with asked_in_one_go.stream(sa.text(endless)) as rows:
        assert [row.i for row in await rows.fetchmany(3)] == [1, 2, 3]


def happened(name: str) -> ReceivedEvent:
    resource = {"prefect.resource.id": f"prefect.flow-run.{name}"}
    related = [{"prefect.resource.id": "prefect.flow.1", "prefect.resource.role": "flow"}]
    now = datetime.now(UTC)
    return ReceivedEvent.model_validate(
        {"id": uuid4(), "occurred": now, "event": name, "resource": resource, "related": related}
    )


async def test_events_are_stored_on_sqlite_by_one_statement_and_their_resources_by_another(
    sqlite_database: AsyncSession,
):
    with queries(sqlite_database.sync_session) as made:
        await write_events(sqlite_database, [happened(name) for name in ("begun", "ended")])
    names = await sqlite_database.scalars(sa.select(Event.event))
    assert set(names) == {"begun", "ended"}
    resources = await sqlite_database.scalars(sa.select(EventResource.resource_id))
    assert sorted(resources) == [
        "prefect.flow-run.begun",
        *["prefect.flow-run.ended", "prefect.flow.1", "prefect.flow.1"],
    ]
    assert len(made) == 2


async def test_an_event_that_comes_twice_is_stored_once_on_sqlite(sqlite_database: AsyncSession):
    begun, ended = happened("begun"), happened("ended")
    await write_events(sqlite_database, [begun])
    await write_events(sqlite_database, [begun, ended])
    names = await sqlite_database.scalars(sa.select(Event.event))
    assert sorted(names) == ["begun", "ended"]
    resources = await sqlite_database.scalars(sa.select(EventResource.resource_id))
    assert len(resources.all()) == 4


@pytest.fixture
async def background(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Docket]:
    for changed in ("__init__", "_cancellation_listener"):
        monkeypatch.setattr(Worker, changed, getattr(Worker, changed))
    let_background_work_rest()
    async with Docket(name="idle", url="memory://idle") as docket:
        yield docket


async def test_background_work_is_looked_for_once_a_second(background: Docket):
    worker = Worker(background)
    assert worker.scheduling_resolution == LOOKING_EVERY
    assert worker.minimum_check_interval == LOOKING_EVERY


async def test_background_work_is_done_though_nobody_listens_for_its_cancelling(
    background: Docket, monkeypatch: pytest.MonkeyPatch
):
    done = []

    async def work() -> None:
        done.append("work")

    monkeypatch.setattr(Docket, "_pubsub", None)  # to listen would fail
    soon = timedelta(milliseconds=10)
    await background.add(work)()
    async with Worker(
        background, minimum_check_interval=soon, scheduling_resolution=soon
    ) as worker:
        await asyncio.wait_for(worker.run_until_finished(), timeout=5)
    assert done == ["work"]


@pytest.mark.parametrize("change", ["created", "updated", "deleted"])
async def test_no_events_are_emitted_of_the_variables_that_closes_keep_for_themselves(
    change: str, monkeypatch: pytest.MonkeyPatch
):
    emitting = f"emit_variable_{change}_event"
    monkeypatch.setattr(variables, emitting, getattr(variables, emitting))
    monkeypatch.setattr(clients, "PrefectServerEventsClient", clients.AssertingEventsClient)
    clients.AssertingEventsClient.reset()
    emit_no_events_of_own_variables()
    own = [
        f"{kind}-{Binding(*ids).slug}"
        for kind in ("batch_close_lock", "batch-close")
        for ids in IDS
    ]
    others = ["lock", "batch_close_lock-door", "batch-close-hours", f"door-{own[0]}"]
    for name in own + others:
        await getattr(variables, emitting)(Variable(id=uuid4(), name=name, value=1, tags=[]))
    told = [event for client in clients.AssertingEventsClient.all for event in client.events]
    assert [event.resource.name for event in told] == others


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
