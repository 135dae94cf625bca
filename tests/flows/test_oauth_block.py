"""The OAuth Server block as Prefect keeps it: what is secret in it, and what was saved before."""

import json
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import BlockDocumentCreate, BlockSchemaCreate

from blocks.oauth import OAuthServer

FIELDS: dict[str, Any] = {
    "token_endpoint": "https://auth.example.com/token",
    "client_id": "batch",
    "client_secret": "canary-client-secret",
    "extra_exchange_parameters": {"actor_token": "canary-actor-token", "actor_token_type": "jwt"},
}
EXTRAS = FIELDS["extra_exchange_parameters"]


async def shown(client: PrefectClient, name: str) -> str:
    """What Prefect's API answers of the block to whoever does not ask for its secrets."""
    document = await client.read_block_document_by_name(
        name, block_type_slug="oauth-server", include_secrets=False
    )
    listed = await client.read_block_documents_by_type("oauth-server", include_secrets=False)
    named = [it for it in listed if it.name == name]
    return json.dumps([it.model_dump(mode="json")["data"] for it in [document, *named]])


async def saved_by_an_earlier_version(client: PrefectClient, name: str) -> None:
    """A document whose schema takes the extra parameters for something to be shown."""
    await OAuthServer.register_type_and_schema()
    block_type = await client.read_block_type_by_slug("oauth-server")
    fields = OAuthServer.model_json_schema()
    secret = ["client_secret", "private_key"]
    fields = {**fields, "secret_fields": secret, "title": f"Earlier {uuid4()}"}
    schema = await client.create_block_schema(
        BlockSchemaCreate(
            fields=fields, block_type_id=block_type.id, capabilities=[], version="0.1"
        )
    )
    await client.create_block_document(
        BlockDocumentCreate(
            name=name, data=FIELDS, block_schema_id=schema.id, block_type_id=block_type.id
        )
    )


@pytest.fixture
def name() -> str:
    return f"oauth-{uuid4().hex[:8]}"


async def test_extra_exchange_parameters_are_secret_in_prefect(
    prefect_api: None, name: str
) -> None:
    await OAuthServer(**FIELDS).asave(name)
    async with get_client() as client:
        said = await shown(client, name)
    assert "canary" not in said
    assert "actor_token" in said
    loaded = await OAuthServer.aload(name)
    assert loaded.extra_exchange_parameters.get_secret_value() == EXTRAS
    assert "canary" not in repr(loaded)


async def test_a_block_that_an_earlier_version_saved_is_read_and_secret_once_saved_again(
    prefect_api: None, name: str
) -> None:
    async with get_client() as client:
        await saved_by_an_earlier_version(client, name)
        assert "canary-actor-token" in await shown(client, name)
        loaded = await OAuthServer.aload(name)
        assert loaded.extra_exchange_parameters.get_secret_value() == EXTRAS
        await loaded.asave(name, overwrite=True)
        assert "canary" not in await shown(client, name)
    again = await OAuthServer.aload(name)
    assert again.extra_exchange_parameters.get_secret_value() == EXTRAS


async def test_a_block_without_extra_parameters_is_kept_as_one(
    prefect_api: None, name: str
) -> None:
    await OAuthServer(**{**FIELDS, "extra_exchange_parameters": {}}).asave(name)
    loaded = await OAuthServer.aload(name)
    assert loaded.extra_exchange_parameters.get_secret_value() == {}
