"""The client of Prefect's API that a process shares among all that it does at once."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
from prefect.client.orchestration import get_client
from prefect.context import AsyncClientContext

from blocks.ownership import on_answer_from_prefect, on_request_to_prefect

REQUESTS_AT_ONCE = 8
"""As many connections as Prefect's client keeps open.

By that limit httpcore means that beyond it every connection is closed after one request, and
whoever waits for one makes all others dearer. So the others wait here.
"""


class _FewAtOnce(httpx.Auth):
    """No authentication: what httpx lets enclose a whole request, its answer and its failure."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        async with self._places:
            response = yield request
            await response.aread()


def shared_prefect_client() -> AsyncClientContext:
    """A context, not entered yet, in which `prefect.client.orchestration.get_client` finds it."""
    context = AsyncClientContext()
    # Not as the context's own settings: `get_client` would find it only with the very same ones.
    hooks = {"request": [on_request_to_prefect], "response": [on_answer_from_prefect]}
    context.client = get_client(httpx_settings={"auth": _FewAtOnce(), "event_hooks": hooks})
    return context
