"""What the Prefect server reads to change a state and to write a block: enough, and no more."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.blocks.system import Secret
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import BlockDocumentUpdate, WorkPoolCreate
from prefect.client.schemas.responses import SetStateStatus
from prefect.server.database.orm_models import (
    Base,
    BlockDocument,
    BlockDocumentReference,
    BlockSchema,
    BlockType,
    Deployment,
    DeploymentSchedule,
    Flow,
    FlowRun,
    WorkPool,
    WorkQueue,
)
from prefect.server.models.block_documents import (
    read_block_document_by_id as read_as_prefect_does,
)
from prefect.server.models.flow_runs import set_flow_run_state
from prefect.server.orchestration.core_policy import CoreFlowPolicy
from prefect.server.schemas import states
from prefect.states import Completed, Pending, Running
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from deployments.prefect_server import reads
from deployments.prefect_server.reads import read_block_document_by_id
from tests.flows.queries import queries

VALUE = "the refresh token"

TABLES = [table for name, table in Base.metadata.tables.items() if name != "artifact"]
"""All but the one that is declared with an index that it has already."""


@pytest.fixture
async def database(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncSession]:
    """Prefect's tables, of which the server reads no more than it uses."""
    monkeypatch.setattr(reads.flow_runs, "read_flow_run", reads.flow_runs.read_flow_run)
    monkeypatch.setattr(reads.core_policy, "deployments", reads.core_policy.deployments)
    reads.read_only_what_a_transition_needs()
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(lambda it: Base.metadata.create_all(it, TABLES))
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


async def stored_run(database: AsyncSession) -> UUID:
    pool = WorkPool(name="pool", type="process")
    queue = WorkQueue(name="queue", priority=1, work_pool=pool)
    mapped = Flow(name="daily-close")
    deployment = Deployment(name="acme", flow=mapped, work_queue=queue)
    deployment.schedules = [DeploymentSchedule(schedule={"interval": 60}, active=True)]
    database.add(deployment)
    await database.flush()
    run = FlowRun(flow_id=mapped.id, deployment_id=deployment.id, work_queue_id=queue.id)
    database.add(run)
    await database.flush()
    run_id = run.id
    await database.commit()
    database.expunge_all()
    return run_id


async def propose(database: AsyncSession, run: UUID, state: states.State) -> SetStateStatus:
    result = await set_flow_run_state(database, run, state, flow_policy=CoreFlowPolicy)
    await database.commit()
    database.expunge_all()
    return SetStateStatus(result.status.value)


async def test_neither_work_queue_nor_schedules_are_read_to_change_a_state(database: AsyncSession):
    run = await stored_run(database)
    nightly = [states.Running(), states.Scheduled(name="WaitForUpstream"), states.Completed()]
    await propose(database, run, states.Pending())  # its first event tells of the queue
    with queries(database.sync_session) as made:
        for state in nightly:
            assert await propose(database, run, state) == SetStateStatus.ACCEPT
    assert any("FROM deployment" in asked for asked in made)
    unused = ("FROM work_queue", "FROM work_pool", "FROM deployment_schedule")
    assert not [asked for asked in made if any(table in asked for table in unused)]


async def test_a_transition_still_sees_the_state_before_it(database: AsyncSession):
    run = await stored_run(database)
    await propose(database, run, states.Running())
    assert await propose(database, run, states.Pending()) == SetStateStatus.ABORT


@flow
def nothing() -> None:
    """Its runs are never executed."""


async def two_runs(client: PrefectClient, limit: int) -> list[UUID]:
    pool = await client.create_work_pool(WorkPoolCreate(name=f"pool-{uuid4()}", type="process"))
    deployment = await client.create_deployment(
        await client.create_flow(nothing),
        f"limited-{uuid4()}",
        concurrency_limit=limit,
        work_pool_name=pool.name,
    )
    runs = [await client.create_flow_run_from_deployment(deployment) for _ in range(2)]
    assert {run.work_pool_name for run in runs} == {pool.name}
    return [run.id for run in runs]


@pytest.mark.usefixtures("prefect_api")
async def test_a_deployments_limit_is_kept_and_its_slots_are_given_back():
    async with get_client() as client:
        first, second = await two_runs(client, limit=1)
        for state in (Pending(), Running()):
            answer = await client.set_flow_run_state(first, state)
            assert answer.status == SetStateStatus.ACCEPT
        answer = await client.set_flow_run_state(second, Pending())
        assert answer.state
        assert answer.state.name == "AwaitingConcurrencySlot"
        await client.set_flow_run_state(first, Completed())
        answer = await client.set_flow_run_state(second, Pending())
        assert answer.status == SetStateStatus.ACCEPT


@pytest.mark.usefixtures("prefect_api")
async def test_a_written_block_holds_what_was_written_and_an_event_tells_of_it_without_its_value():
    name = f"secret-{uuid4()}"
    async with get_client() as client:
        block = await Secret(value="the first").asave(name)
        change = BlockDocumentUpdate(data={"value": VALUE}, merge_existing_data=False)
        await client.update_block_document(block, change)
        assert (await Secret.aload(name)).get() == VALUE
        resource = {"id": [f"prefect.block-document.{block}"]}
        wanted = {"event": {"name": ["prefect.block-document.updated"]}, "resource": resource}
        async with asyncio.timeout(10):
            while not (events := await find_events(client, wanted)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    [event] = events
    assert event["resource"]["prefect.resource.name"] == name
    assert VALUE not in str(event)


async def find_events(client: PrefectClient, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await client.request("POST", "/events/filter", json={"filter": wanted})
    return list(answer.json()["events"])


async def stored_block(database: AsyncSession, *, of: BlockSchema, name: str) -> BlockDocument:
    block = BlockDocument(
        name=name, block_type=of.block_type, block_type_name="Secret", block_schema=of
    )
    await block.encrypt_data(database, {"value": VALUE})
    database.add(block)
    await database.flush()
    return block


@pytest.fixture
async def schema(database: AsyncSession) -> BlockSchema:
    kind = BlockType(name="Secret", slug="secret")
    fields = {"secret_fields": ["value"], "block_schema_references": {}}
    schema = BlockSchema(checksum="1", version="1", fields=fields, block_type=kind)
    database.add(schema)
    await database.flush()
    return schema


@pytest.mark.parametrize("include_secrets", [True, False])
async def test_a_plain_block_reads_as_it_does_with_prefects_own_queries(
    database: AsyncSession, schema: BlockSchema, include_secrets: bool
):
    block = await stored_block(database, of=schema, name="grant")
    with queries(database.sync_session) as made:
        ours = await read_block_document_by_id(database, block.id, include_secrets=include_secrets)
    assert not any("RECURSIVE" in asked for asked in made)
    own = await read_as_prefect_does(database, block.id, include_secrets=include_secrets)
    assert ours == own
    assert ours
    assert (VALUE in str(ours.data)) == include_secrets


async def test_a_block_that_refers_to_another_is_read_with_it(
    database: AsyncSession, schema: BlockSchema
):
    child = await stored_block(database, of=schema, name="child")
    parent = await stored_block(database, of=schema, name="parent")
    database.add(
        BlockDocumentReference(
            name="inner", parent_block_document_id=parent.id, reference_block_document_id=child.id
        )
    )
    await database.flush()
    found = await read_block_document_by_id(database, parent.id)
    assert found
    assert found.block_document_references["inner"]["block_document"]["name"] == "child"


async def test_a_block_that_is_not_there_is_none(database: AsyncSession):
    assert await read_block_document_by_id(database, uuid4()) is None
