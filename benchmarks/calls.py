"""What a worker asks of the Prefect API, counted in the server's own access log."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import httpx

from deployments.stack import Stack

METHOD = "GET|POST|PUT|PATCH|DELETE|WebSocket"
REQUEST = re.compile(rf'"({METHOD}) (/api[^\s?]*)(?:\?\S*)?(?: HTTP/\S+)?" \S')
ID = re.compile(r"(?<=/)[0-9a-f]{8}-[0-9a-f-]{27}(?=/|$)")
NAME = re.compile(r"(?<=/name/)[^/]+|(?<=/work_pools/)(?!filter)[^/]+|(?<=/v2/).+")
BOOKKEEPING_SECONDS = 3.0
"""How long the server may take to write down the last events."""


@dataclass(frozen=True)
class Calls:
    """What was asked of the Prefect API, and which events were sent to it over a WebSocket."""

    requests: dict[str, int]
    events: dict[str, int]


class Since:
    """Counts from the moment of its making on. Nobody but the worker may talk to the server."""

    def __init__(self, log: Path, installation: Stack) -> None:
        self._log = log
        self._installation = installation
        self._begin = log.stat().st_size

    async def count(self, due: datetime) -> Calls:
        """What was asked since then, and the events since the moment `due`."""
        with self._log.open(errors="replace") as log:
            log.seek(self._begin)
            requests = count_requests(log)
        await asyncio.sleep(BOOKKEEPING_SECONDS)
        return Calls(requests, await self._events(due))

    async def _events(self, due: datetime) -> dict[str, int]:
        since = (due - timedelta(seconds=2)).isoformat()
        until = (due + timedelta(days=1)).isoformat()
        asked = {"filter": {"occurred": {"since": since, "until": until}}}
        url, login = self._installation.api_url, self._installation.login
        async with httpx.AsyncClient(base_url=url, auth=login, trust_env=False) as client:
            answer = await client.post("/events/count-by/event", json=asked)
        return {it["label"]: it["count"] for it in answer.raise_for_status().json()}


def count_requests(log: Iterable[str]) -> dict[str, int]:
    """How often each method and path was asked for, ids and names left out; the most first."""
    found = (REQUEST.search(line) for line in log)
    counts = Counter(f"{match[1]} {template(match[2])}" for match in found if match)
    return dict(counts.most_common())


def template(path: str) -> str:
    """The path without what differs from one thing to another."""
    return NAME.sub("{name}", ID.sub("{id}", path))
