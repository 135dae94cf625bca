"""The runs of a work pool that are due, and which of them this process claims."""

from collections.abc import Collection
from contextlib import suppress
from uuid import UUID

import anyio
import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse

from blocks import clock, ownership
from blocks.claim import Claim
from blocks.lease import Lease, OwnershipUnknownError
from blocks.ownership import Work
from blocks.proposals import AT_ONCE
from deployments.claims import claim
from deployments.undeployed import end_undeployed

MOST_ASKED_FOR = 200
"""As many runs as Prefect's API tells of at once."""


class Queue:
    """The due runs of a work pool.

    Prefect is asked right before they are claimed which they are: it leaves out those of a paused
    work pool or queue, and what exceeds their limits.

    Args:
        pool: The work pool.
        names: The work queues in it, or none for all of them.
        at_once: So many are claimed at once, AT_ONCE at most.
    """

    def __init__(self, pool: str, names: Collection[str], at_once: int) -> None:
        self._pool, self._names, self._at_once = pool, names, min(at_once, AT_ONCE)
        self._unclaimed: set[UUID] = set()
        self.claiming: set[UUID] = set()
        """Those that this process is about to claim."""
        self.claimed_lately: set[UUID] = set()
        """Those that it has claimed or tried to: it grows until somebody empties it."""

    async def claim(
        self, client: PrefectClient, lease: Lease, mark: Claim, executed: Collection[UUID]
    ) -> list[FlowRun]:
        """Claim runs that are due, if any are, but for those that are executed here.

        Raises httpx.HTTPError, OwnershipLostError and OwnershipUnknownError.
        """
        found = await self._find(client, executed)
        # From before they are claimed, or they would seem to have been left behind.
        self.claiming = {run.id for run in found}
        self.claimed_lately |= self.claiming
        try:
            # What is claimed while the worker is told to stop has to be given back.
            with anyio.CancelScope(shield=True), ownership.working(Work(lease)):
                claimed = await claim(client, found, mark)
        finally:
            self.claiming = set()
        with ownership.working(Work(lease)):
            await self._end_what_nobody_can_claim(client, found, claimed)
        return claimed

    async def _find(self, client: PrefectClient, executed: Collection[UUID]) -> list[FlowRun]:
        """The runs that are due, no more than can be claimed; those first that never failed to be.

        What cannot be claimed stays at the head of Prefect's queue: it is asked for besides.
        """
        most = min(self._at_once + len(self._unclaimed), MOST_ASKED_FOR)
        due = await self._read(client, most)
        self._unclaimed &= {run.id for run in due}
        due = [run for run in due if run.id not in executed]
        return sorted(due, key=lambda run: run.id in self._unclaimed)[: self._at_once]

    async def _read(self, client: PrefectClient, most: int) -> list[FlowRun]:
        # Not with the client's own function, which asks for 200 at a time.
        answer = await client.request(
            "POST",
            "/work_pools/{name}/get_scheduled_flow_runs",
            path_params={"name": self._pool},
            json={
                "work_queue_names": list(self._names) or None,
                "scheduled_before": clock.now().isoformat(),
                "limit": most,
            },
        )
        return [run.flow_run for run in WorkerFlowRunResponse.model_validate_list(answer.json())]

    async def _end_what_nobody_can_claim(
        self, client: PrefectClient, tried: list[FlowRun], claimed: list[FlowRun]
    ) -> None:
        """End what was due twice and could not be claimed, if its deployment was deleted.

        Once is nothing: another worker may have been quicker.
        """
        left = {run.id for run in tried} - {run.id for run in claimed}
        again = [run for run in tried if run.id in left & self._unclaimed]
        self._unclaimed |= left
        if again:
            # What was claimed has to be executed, whatever comes of this.
            with suppress(httpx.HTTPError, OwnershipUnknownError):
                await end_undeployed(client, again)
