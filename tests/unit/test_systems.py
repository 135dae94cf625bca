"""The saved blocks of the outside systems: what is told where one cannot be used."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from prefect.blocks.core import Block
from prefect.client.schemas.objects import BlockDocument
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks import systems
from blocks.oauth import OAuthServer
from blocks.orders import OrdersApi

Save = Callable[[object], None]


@pytest.fixture(autouse=True)
def _nothing_read_yet() -> Iterator[None]:
    systems.forget()
    # Or Prefect's client would start a server of its own.
    with temporary_settings({PREFECT_API_URL: "http://prefect.invalid/api"}):
        yield
    systems.forget()


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Save:
    """Make Prefect's API answer with a document of this data, or fail so."""

    def save(answer: object) -> None:
        async def read(_cls: type[Block], name: str, client: object) -> tuple[BlockDocument, str]:
            if isinstance(answer, Exception):
                raise answer
            ids = dict.fromkeys(("id", "block_type_id", "block_schema_id"), 16 * "ab")
            document: Any = BlockDocument.model_construct(
                name=name, data=answer, block_schema=object(), block_document_references={}, **ids
            )
            return document, name

        monkeypatch.setattr(Block, "_aget_block_document", classmethod(read))

    return save


CANARY = {"client_id": "batch", "client_secret": "canary"}


@pytest.mark.parametrize(
    ("read", "document", "names"),
    [
        (systems.oauth_server, CANARY, "token_endpoint is missing"),
        (
            systems.oauth_server,
            CANARY | {"token_endpoint": "https://a.example", "connect_timeout": "canary"},
            "connect_timeout",
        ),
        (systems.oauth_server, CANARY | {"issuer": ["canary"]}, "issuer"),
        (systems.oauth_server, CANARY | {"issuer": "http://canary.example"}, "issuer must be an"),
        (systems.oauth_server, CANARY | {"issuer": "https://a.example", "client_id": ""}, "client"),
        (
            systems.oauth_server,
            CANARY | {"issuer": "https://a.example", "client_secret": "canary\udc00"},
            "oauth-server",
        ),
        (systems.oauth_server, "canary", "oauth-server"),
        (systems.orders_api, {}, "base_url"),
        (systems.orders_api, {"base_url": "http://canary.example"}, "base_url must start with"),
        (systems.orders_api, {"base_url": "https://a.example", "max_attempts": "canary"}, "max_at"),
        (systems.orders_api, None, "orders-api"),
    ],
)
async def test_a_saved_block_that_is_not_valid_any_more_is_told_and_not_quoted(
    saved, read, document, names
):
    saved(document)
    with pytest.raises(systems.NotSavedError, match="in the Prefect UI under Blocks") as caught:
        await read()
    assert names in str(caught.value)
    assert not {"canary", "\udc00", "udc00"} & set(re.split(r"\W+", str(caught.value)))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "surprise", [ValueError("canary"), TypeError("canary"), KeyError("canary"), RuntimeError("x")]
)
async def test_whatever_loading_raises_the_block_is_unusable(saved, surprise):
    saved(surprise)
    with pytest.raises(systems.NotSavedError, match="orders-batch") as caught:
        await systems.oauth_server()
    assert "canary" not in str(caught.value)


async def test_prefect_s_api_being_away_is_no_fault_of_the_block(saved):
    away = httpx.ConnectError("refused")
    wrapped = RuntimeError("Failed to reach API")
    wrapped.__cause__ = away
    for answer in (away, wrapped):
        saved(answer)
        with pytest.raises(httpx.ConnectError):
            await systems.orders_api()


async def test_a_saved_block_that_is_mended_is_used(saved):
    saved({})
    with pytest.raises(systems.NotSavedError):
        await systems.orders_api()
    saved({"base_url": "https://orders.example"})
    assert isinstance(await systems.orders_api(), OrdersApi)
    saved(CANARY | {"token_endpoint": "https://auth.example/token"})
    assert isinstance(await systems.oauth_server(), OAuthServer)
