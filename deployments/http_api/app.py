"""The ASGI app, put together."""

import asyncio
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from blocks.oauth import OAuthServer
from deployments.http_api import batch_routes, journey_routes, openapi, probes, refusals
from deployments.http_api.board import Board
from deployments.http_api.callers import Callers, saved_server


def create_app(
    load: Callable[[], Awaitable[OAuthServer]] = saved_server, *, serves_unverified: bool = False
) -> FastAPI:
    """The Journeys API on the Prefect that the settings name (PREFECT_API_URL).

    Args:
        load: Where the OAuth Server block comes from.
        serves_unverified: Whether callers are served from this machine where the block verifies
            none. Whoever can reach this port is one then: a proxy that says nothing of itself, a
            forwarded port, another user of the machine.
    """
    app = FastAPIOffline(  # `/docs` needs nothing from elsewhere
        version=version("daily-orders-batch-close"),
        redirect_slashes=False,
        docs_url="/docs",
        redoc_url=None,
    )
    app.state.callers = Callers(load, serves_unverified=serves_unverified)
    app.state.readiness = probes.Readiness(app.state.callers.check)
    app.state.board = Board()
    app.state.stopping = asyncio.Event()
    app.state.routes = []
    for router in (batch_routes.router, journey_routes.router, probes.router):
        app.include_router(router)
        app.state.routes += router.routes
    refusals.install(app)
    openapi.install(app)
    return app
