"""Unknown fields through a real Prefect server and back: what is accepted comes back equal."""

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.variables import Variable

from blocks import deployment
from flows.admission import InvalidRequestError, parse_request
from flows.configure import configure
from flows.contract import DailyOrdersBatchCloseConfigRequest
from flows.daily_close import daily_close
from flows.parameters import from_parameters, from_stored, to_parameters, to_stored

pytestmark = pytest.mark.usefixtures("prefect_api")

REQUEST = {
    "tenantId": "{{ acme }}",
    "batchId": "{tenant_id} ${x} {{ prefect.variables.secret }}",
    "firstRunAt": "2042-03-01T23:00:00Z",
    "interval": "P1D",
    "maxRuns": 2,
}

kinds = st.sampled_from(["__prefect_kind", "template", "variable_name", "value", "$ref", "a"])
told = st.sampled_from(["jinja", "json", "workspace_variable", "none", "{{ 7**9 }}", "secret"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**63 - 2, max_value=2**70)
    | st.floats()
    | st.text()
    | told,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(kinds | st.text(), inner),
    max_leaves=12,
)


@pytest.fixture(scope="module")
async def deployed(prefect_api: None) -> tuple[DeploymentResponse, DeploymentResponse]:
    """A deployment of each flow."""
    await Variable.aset("secret", "an operator's own", overwrite=True)
    async with get_client() as client:
        made = [
            await client.read_deployment(
                await (await flow.ato_deployment("unknown-fields")).aapply()  # type: ignore[arg-type]
            )
            for flow in (configure, daily_close)
        ]
    return made[0], made[1]


async def there_and_back(
    client: PrefectClient, of: DeploymentResponse, parameters: dict[str, Any]
) -> dict[str, Any]:
    """The parameters of a deployment's new run, as every list then tells them."""
    await client.update_deployment(of.id, DeploymentUpdate(parameters=parameters))
    run = await client.create_flow_run_from_deployment(of.id)
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    [listed] = await client.read_flow_runs(flow_run_filter=wanted)
    mine = DeploymentFilter(id=DeploymentFilterId(any_=[of.id]))
    [stored] = await client.read_deployments(deployment_filter=mine)
    await client.delete_flow_run(run.id)
    assert listed.parameters == stored.parameters == parameters
    return listed.parameters


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(fields=st.dictionaries(kinds | st.text(), values, max_size=4))
async def test_whatever_unknown_fields_hold_they_come_back_equal_or_are_refused(
    deployed: tuple[DeploymentResponse, DeploymentResponse], fields: dict[str, Any]
) -> None:
    try:
        request = parse_request({**fields, **REQUEST}, now=datetime(2042, 1, 1, tzinfo=UTC))
    except InvalidRequestError:
        return
    journeys, nightly = deployed
    names = {"tenant_id": request.tenant_id, "batch_id": request.batch_id}
    async with get_client() as client:
        asked = await there_and_back(client, journeys, to_parameters(request, "block"))
        stored = await there_and_back(client, nightly, names | {"configured": to_stored(request)})
    for found in (from_parameters(asked), from_stored(stored["configured"])):
        read_again = DailyOrdersBatchCloseConfigRequest.model_validate(found)
        assert read_again == request
        assert json.dumps(read_again.model_extra) == json.dumps(fields)


@pytest.mark.parametrize(
    "note",
    [
        {"__prefect_kind": "jinja", "template": "{{ 7**12000000 % 10 }}"},
        {"__prefect_kind": "workspace_variable", "variable_name": "secret"},
        {"__prefect_kind": "json", "value": "[1"},
        {"__prefect_kind": "unheard of"},
        {"$ref": {"block_document_id": "5d0f6c2e-6a53-4b8e-9b11-2f1f5d0a7c41"}},
        "{{ prefect.blocks.secret.caller }}",
        2**64,
    ],
)
async def test_what_prefect_reads_as_an_instruction_is_kept_as_it_came(
    deployed: tuple[DeploymentResponse, DeploymentResponse], note: object
) -> None:
    request = parse_request(REQUEST | {"note": note}, now=datetime(2042, 1, 1, tzinfo=UTC))
    async with get_client() as client:
        asked = await there_and_back(client, deployed[0], to_parameters(request, "block"))
    assert from_parameters(asked)["note"] == note


async def test_a_deployment_that_prefect_cannot_tell_of_does_not_hide_the_others(
    deployed: tuple[DeploymentResponse, DeploymentResponse],
) -> None:
    _, other = deployed
    name = "cannot-be-told"
    # What Prefect stores it does not answer: it says 500 and keeps it.
    body = f'{{"flow_id": "{other.flow_id}", "name": "{name}", "parameters": {{"x": "\\ud800"}}}}'
    async with get_client() as client:
        with pytest.raises(httpx.HTTPStatusError, match="500"):
            await client.request("POST", "/deployments/", content=body)
        try:
            with pytest.raises(httpx.HTTPStatusError, match="500"):
                await client.read_deployments()
            names = [it.name for it in await deployment.read_all(client)]
        finally:
            wanted = {"deployments": {"name": {"any_": [name]}}}
            await client.request("POST", "/deployments/bulk_delete", json=wanted)
    assert other.name in names
    assert name not in names
