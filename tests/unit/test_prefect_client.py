"""The client of Prefect's API, counted from the other end: how often it connects."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from prefect import __version__
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from deployments.prefect_client import REQUESTS_AT_ONCE, shared_prefect_client

ANSWER = f'"{__version__}"'.encode()
HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(ANSWER)}\r\n\r\n"


class Api:
    """Answers every request, unless it is away, and counts the connections on which they come."""

    connections = 0
    is_away = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes on one connection until it ends."""
        self.connections += 1
        while (await reader.readline()).strip() and not self.is_away:
            while (await reader.readline()).strip():
                pass
            await asyncio.sleep(0)  # so that others come meanwhile
            writer.write(HEAD.encode() + ANSWER)
        writer.close()


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """An API which the client is told to use, and not to ask again."""
    api = Api()
    async with listening(api) as url:
        with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
            yield api


@asynccontextmanager
async def listening(api: Api) -> AsyncIterator[str]:
    """The address at which it listens."""
    async with await asyncio.start_server(api.serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api"


async def ask() -> str:
    """Ask as blocks and flows do."""
    async with get_client() as client:
        return await client.api_version()


async def ask_often() -> None:
    """One after the other."""
    for _ in range(5):
        await ask()


async def test_many_requests_at_once_share_a_few_connections(api: Api) -> None:
    async with shared_prefect_client():
        await asyncio.gather(*(ask_often() for _ in range(40)))
    assert 1 < api.connections <= REQUESTS_AT_ONCE


async def test_requests_that_fail_keep_nobody_waiting(api: Api) -> None:
    async with shared_prefect_client():
        api.is_away = True
        failures = await asyncio.gather(*(ask() for _ in range(40)), return_exceptions=True)
        assert {type(failure) for failure in failures} == {httpx.RemoteProtocolError}
        api.is_away = False
        assert await ask() == __version__
