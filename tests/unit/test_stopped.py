"""Nights whose runs were ended while nobody executed them."""

from typing import cast
from uuid import uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled

from deployments import stopped
from deployments.stopped import StoppedRuns


class Prefect:
    """Has so many runs that were cancelled, and tells of them by the page."""

    def __init__(self, number: int) -> None:
        self.runs = [
            FlowRun(id=uuid4(), name=str(it), flow_id=uuid4(), state=Cancelled(message="by hand"))
            for it in range(number)
        ]

    async def read_flow_runs(self, *, limit: int, offset: int, **_: object) -> list[FlowRun]:
        """One page."""
        return self.runs[offset : offset + limit]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs whose nights were recorded; the one called 1 cannot be."""
    names: list[str] = []

    async def record(run: FlowRun) -> None:
        if run.name == "1":
            raise ValueError("unreadable")
        names.append(run.name)

    monkeypatch.setattr(stopped, "record_ended", record)
    monkeypatch.setattr(stopped, "PAGE", 2)
    return names


async def test_all_of_many_are_recorded_and_one_that_cannot_be_holds_up_no_other(
    recorded: list[str],
) -> None:
    prefect = cast("PrefectClient", Prefect(5))
    await StoppedRuns().record(prefect, "pool")
    assert recorded == ["0", "2", "3", "4"]


async def test_each_is_recorded_once(recorded: list[str]) -> None:
    prefect, runs = cast("PrefectClient", Prefect(1)), StoppedRuns()
    for _ in range(3):
        await runs.record(prefect, "pool")
    assert recorded == ["0"]
