"""Unknown fields through a real Prefect server and back: what is accepted comes back equal."""

import json
from collections.abc import AsyncIterator
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

from blocks import all_bindings
from blocks.binding import Binding
from deployments.http_api.app import create_app
from deployments.http_api.paths import START
from deployments.sandbox.client import SandboxClient
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


@pytest.fixture
async def http(configure_deployed: None) -> AsyncIterator[httpx.AsyncClient]:
    app = httpx.ASGITransport(create_app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=app, base_url="http://127.0.0.1") as client:
        yield client


SENT = {
    '"ticket": 18446744073709551616': 202,
    '"note": {"__prefect_kind": "jinja", "template": "{{ 7**12000000 % 10 }}"}': 202,
    '"upstreamWaitDuration": null, "timeZone": null': 202,
    '"x": ' + "[" * 32 + "]" * 32: 202,
    '"x": ' + "[" * 199 + "]" * 199: 422,
    '"x": ' + "[" * 600 + "]" * 600: 422,
    '"x": ' + '{"a":' * 900 + "1" + "}" * 900: 422,
    '"x": ' + "[" * 30_000 + "]" * 30_000: 422,
    '"x": ' + "[" * 100_000 + "]" * 100_000: 413,
    '"x": NaN': 422,
    '"x": -1e400': 422,
    r'"x": "\u0000"': 422,
    r'"x": "\ud800"': 422,
    r'"\ud800": 1': 422,
    '"x": {"a": 1, "a": 2}': 422,
    f'"x": {"1" * 4200}': 422,
    f'"x": {"1" * 5000}': 400,
    '"maxRuns": 18446744073709551616': 422,
    '"maxRuns": 1e400': 422,
    '"batchId": ".."': 422,
    '"batchId": {"$ref": {"block_document_id": "5d0f6c2e-6a53-4b8e-9b11-2f1f5d0a7c41"}}': 422,
    '"batchId": "{{ prefect.variables.secret }}"': 202,
}


@pytest.mark.parametrize("sent", SENT, ids=lambda sent: sent[:40])
async def test_whatever_is_sent_is_taken_or_refused_and_prefect_still_lists_all(
    http: httpx.AsyncClient, sandbox: SandboxClient, binding: Binding, sent: str
) -> None:
    rest = {name: value for name, value in REQUEST.items() if f'"{name}"' not in sent}
    body = f"{json.dumps(rest | {'tenantId': binding.tenant_id})[:-1]}, {sent}}}"
    token = sandbox.subject_token(binding.tenant_id)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    answer = await http.post(START, content=body, headers=headers)
    assert answer.status_code == SENT[sent], answer.text
    async with get_client() as client:
        assert await client.read_flow_runs() is not None


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
            names = [it.name for it in await all_bindings.read_deployments(client)]
        finally:
            wanted = {"deployments": {"name": {"any_": [name]}}}
            await client.request("POST", "/deployments/bulk_delete", json=wanted)
    assert other.name in names
    assert name not in names
