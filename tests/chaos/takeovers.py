"""What a process does that stood still, and was given up meanwhile."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import httpx

from deployments.sandbox.shapes import Event


class Freeze(NamedTuple):
    """A worker that stood still until a moment, and whose lease had been ended by then.

    It may go on as another process, with a lease of its own: this one has nothing left to do.
    """

    process: str
    until: datetime


def went_on(events: Iterable[Event], freezes: Sequence[Freeze]) -> list[str]:
    """The requests that processes sent after they had been given up."""
    return [
        f"{event.kind} for {event.tenant_id} by a process that had stood still and been given up"
        for freeze in freezes
        for event in events
        if event.process == freeze.process and event.at > freeze.until
    ]


def process_of(api_url: str, login: tuple[str, str], pid: int) -> str | None:
    """The id under which the process of this number has a lease now, as Prefect tells."""
    wanted = {"variables": {"name": {"like_": "batch_close_lease-%"}}, "limit": 200}
    url = f"{api_url}/variables/filter"
    found = httpx.post(url, json=wanted, auth=login, timeout=30, trust_env=False)
    leases = [it["value"] for it in found.raise_for_status().json()]
    return next((str(lease["id"]) for lease in leases if lease["pid"] == pid), None)
