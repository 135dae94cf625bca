"""What the server reads from its database: no more than it uses."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import sqlalchemy as sa
from prefect.server.database.orm_models import (
    Base,
    BlockDocument,
    BlockDocumentReference,
    BlockSchema,
    BlockType,
    Deployment,
    FlowRun,
    WorkPool,
    WorkQueue,
)
from prefect.server.models import block_documents, flow_runs
from prefect.server.orchestration import core_policy
from prefect.server.schemas.core import BlockDocument as WholeBlockDocument
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import raiseload
from sqlalchemy.orm.util import identity_key

SHARED = (BlockSchema, BlockType, WorkPool, WorkQueue)
"""What many rows refer to."""


def look_in_the_session_first() -> None:
    """Load what is shared as `immediate`, which asks the database for what the session lacks.

    `selectin`, Prefect's choice, always asks it
    (https://docs.sqlalchemy.org/en/20/orm/queryguide/relationships.html). What the shared rows
    themselves refer to stays `selectin`: of `immediate` below `immediate`, SQLAlchemy 2.0 loads
    nothing once it meets a second row.
    """
    for mapper in Base.registry.mappers:
        if mapper.class_ in SHARED:
            continue
        for relationship in mapper.relationships:
            if relationship.lazy == "selectin" and relationship.mapper.class_ in SHARED:
                relationship.lazy = "immediate"
                relationship.strategy_key = (("lazy", "immediate"),)
                relationship.strategy = relationship._get_strategy(relationship.strategy_key)  # noqa: SLF001


def read_only_what_a_transition_needs() -> None:
    """Change a run's state without its work queue, and without its deployment's and schedules.

    Nothing that decides about a transition asks for them. What did would fail, with SQLAlchemy's
    InvalidRequestError, and not be told that there is none.
    """
    flow_runs.read_flow_run = read_flow_run
    core_policy.deployments = _DeploymentsOfTransitions  # type: ignore[attr-defined,assignment]


_read_flow_run: Callable[..., Awaitable[FlowRun | None]] = flow_runs.read_flow_run


async def read_flow_run(
    session: AsyncSession, flow_run_id: UUID, for_update: bool = False
) -> FlowRun | None:
    """As Prefect's own, except for a run whose state is to be changed and nothing else is."""
    # A run that was just created is shown afterwards, with its work queue.
    if not for_update or _is_known(session, FlowRun, flow_run_id):
        return await _read_flow_run(session=session, flow_run_id=flow_run_id, for_update=for_update)
    # Its state is not joined: PostgreSQL, having waited for the row, would join the former one.
    query = (
        sa.select(FlowRun).where(FlowRun.id == flow_run_id).options(raiseload(FlowRun.work_queue))
    )
    return (await session.execute(query.with_for_update())).scalar()


class _DeploymentsOfTransitions:
    """All that Prefect's rules ask of its module of that name."""

    @staticmethod
    async def read_deployment(session: AsyncSession, deployment_id: UUID) -> Deployment | None:
        if _is_known(session, Deployment, deployment_id):
            return await session.get(Deployment, deployment_id)
        unused = raiseload(Deployment.work_queue), raiseload(Deployment.schedules)
        return await session.get(Deployment, deployment_id, options=unused)


def read_plain_blocks_at_once() -> None:
    """Read a block that refers to no other as what the session has of it.

    To tell others that a block was written, Prefect reads it again, by two recursive queries that
    it builds each time: a third of what it costs to write a grant.
    """
    block_documents.read_block_document_by_id = read_block_document_by_id


_read_block = block_documents.read_block_document_by_id


async def read_block_document_by_id(
    session: AsyncSession, block_document_id: UUID, include_secrets: bool = False
) -> WholeBlockDocument | None:
    """As Prefect's own."""
    if _is_known(session, BlockDocument, block_document_id):
        found = await session.get(BlockDocument, block_document_id)
        if found and await _is_plain(session, found):
            return await WholeBlockDocument.from_orm_model(
                session, found, include_secrets=include_secrets
            )
    return await _read_block(session, block_document_id, include_secrets=include_secrets)


async def _is_plain(session: AsyncSession, block: BlockDocument) -> bool:
    if sa.inspect(block).unloaded & {"block_type", "block_schema", "updated"}:
        return False  # it was just created, or given another schema
    referred = BlockDocumentReference.parent_block_document_id == block.id
    return await session.scalar(sa.select(BlockDocumentReference.id).where(referred)) is None


def _is_known(session: AsyncSession, mapped: type[Base], row_id: UUID) -> bool:
    return identity_key(mapped, row_id) in session.sync_session.identity_map
