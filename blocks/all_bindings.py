"""Every binding there is, by its deployment, in pages."""

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.responses import DeploymentResponse
from prefect.logging import get_logger

from blocks.deployment import FLOW, TEMPLATE

PAGE = 200

logger = get_logger("deployment")


async def read_deployments(client: PrefectClient) -> list[DeploymentResponse]:
    """Every binding's deployment, without those that Prefect cannot tell of: they are logged."""
    found: list[DeploymentResponse | None] = []
    while page := await _page(client, len(found)):
        found += page
    return [deployment for deployment in found if deployment and deployment.name != TEMPLATE]


async def _page(client: PrefectClient, offset: int) -> list[DeploymentResponse | None]:
    try:
        return [*await _read(client, PAGE, offset)]
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.INTERNAL_SERVER_ERROR:
            raise
    # The parameters of one of them are such that Prefect's answer fails as a whole: each alone.
    counted = await client.request(
        "POST", "/deployments/count", json={"flows": {"name": {"any_": [FLOW]}}}
    )
    numbers = range(offset, min(offset + PAGE, counted.json()))
    return [await _read_one(client, number) for number in numbers]


async def _read(client: PrefectClient, limit: int, offset: int) -> list[DeploymentResponse]:
    flows = FlowFilter(name=FlowFilterName(any_=[FLOW]))
    return await client.read_deployments(flow_filter=flows, limit=limit, offset=offset)


async def _read_one(client: PrefectClient, number: int) -> DeploymentResponse | None:
    try:
        return next(iter(await _read(client, 1, number)), None)
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.INTERNAL_SERVER_ERROR:
            raise
        logger.warning("Prefect cannot tell of deployment %d: it is left as it is.", number)
        return None
