"""The flows that a worker has loaded: each once for each version that was deployed."""

from typing import Any
from uuid import UUID

import anyio
import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.flows import Flow, load_flow_from_flow_run

from deployments.engine import require_plain


class CannotLoadError(Exception):
    """A run's flow cannot be loaded, or not be executed here; the message says why."""


class LoadedFlows:
    """Loads flows. A module that Python has imported stays as it is until the worker restarts."""

    def __init__(self) -> None:
        self._loading = anyio.Lock()
        self._flows: dict[tuple[UUID, str | None], Flow[..., Any]] = {}

    async def of(self, run: FlowRun) -> Flow[..., Any]:
        """The run's flow.

        Raises CannotLoadError, and httpx.HTTPError where Prefect's API is away.
        """
        version = (run.flow_id, run.deployment_version)
        async with self._loading:
            if version not in self._flows:
                try:
                    self._flows[version] = require_plain(await load_flow_from_flow_run(run))
                except httpx.HTTPError:
                    raise
                except Exception as error:
                    raise CannotLoadError(f"The flow cannot be loaded: {error}") from error
            return self._flows[version]
