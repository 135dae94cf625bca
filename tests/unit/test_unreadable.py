"""Which runs are set aside, where Prefect's answers fail: those at fault, and only those."""

from typing import Any, NoReturn, cast
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Pending, Running

from blocks.claim import Claim
from deployments import recovery, unreadable
from deployments.readable import is_unreadable, read_readable
from deployments.unreadable import set_aside_unreadable


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unreadable, "PAUSE_SECONDS", 0)


class Prefect:
    """A Prefect API with some runs, of which it cannot tell of those that are poisoned."""

    def __init__(self, runs: int, poisoned: int, *, passing: bool = False) -> None:
        self.runs = [uuid4() for _ in range(runs)]
        self.poisoned = set(self.runs[: -poisoned - 1 : -1]) if poisoned else set()
        self.passing = passing
        self.asked = 0
        self.changed: list[UUID] = []
        self.ended: list[UUID] = []

    async def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        """What the API answers."""
        request = httpx.Request(method, f"http://prefect.invalid{url}")
        if method == "PATCH":
            run_id = options["path_params"]["id"]
            self.changed.append(run_id)
            self.poisoned.discard(run_id)
            return httpx.Response(204, request=request)
        ids = options["json"]["flow_runs"].get("id", {}).get("any_")
        runs = [run for run in self.runs if ids is None or str(run) in ids]
        if url.startswith("/ui/"):
            first = options["json"]["offset"]
            return httpx.Response(
                200, request=request, json=[{"id": str(it)} for it in runs[first:]]
            )
        return self._tell(runs, request)

    def _tell(self, runs: list[UUID], request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.poisoned.intersection(runs):
            if self.passing and len(runs) == 1:
                self.poisoned.clear()
            response = httpx.Response(500, request=request)
            raise httpx.HTTPStatusError("", request=request, response=response)
        told = [FlowRun(id=run, flow_id=uuid4()).model_dump(mode="json") for run in runs]
        return httpx.Response(200, request=request, json=told)

    async def set_flow_run_state(self, run_id: UUID, *_: object, **__: object) -> None:
        """Note it."""
        self.ended.append(run_id)


def client(prefect: Prefect) -> PrefectClient:
    return cast("PrefectClient", prefect)


async def test_the_runs_at_fault_are_found_among_many_in_few_requests() -> None:
    prefect = Prefect(runs=1000, poisoned=3)
    readable, unreadable_ones = await read_readable(client(prefect), prefect.runs)
    assert set(unreadable_ones) == prefect.poisoned
    assert len(readable) == 997
    assert prefect.asked < 60


async def test_only_the_runs_at_fault_are_set_aside() -> None:
    prefect = Prefect(runs=20, poisoned=2)
    at_fault = set(prefect.poisoned)
    assert set(await set_aside_unreadable(client(prefect), "pool")) == at_fault
    assert set(prefect.changed) == set(prefect.ended) == at_fault


async def test_no_run_is_set_aside_where_none_can_be_read() -> None:
    prefect = Prefect(runs=5, poisoned=5)
    assert await set_aside_unreadable(client(prefect), "pool") == []
    assert not prefect.changed + prefect.ended


async def test_a_trouble_of_prefects_that_passes_costs_no_run() -> None:
    prefect = Prefect(runs=20, poisoned=1, passing=True)
    assert await set_aside_unreadable(client(prefect), "pool") == []
    assert not prefect.changed + prefect.ended


async def test_a_run_whose_former_states_cannot_be_read_does_not_keep_others_from_going_on() -> (
    None
):
    left = Pending(message=str(Claim("worker", "0" * 32)))
    runs = [FlowRun(id=uuid4(), flow_id=uuid4(), state=state) for state in (Running(), left)]

    class Troubled(Prefect):
        """Tells of the runs, and fails to tell of what they were before."""

        async def read_flow_runs(self, **_: object) -> list[FlowRun]:
            """Both."""
            return runs

        async def read_flow_run_states(self, _: UUID) -> NoReturn:
            """It fails."""
            request = httpx.Request("GET", "http://prefect.invalid")
            response = httpx.Response(500, request=request)
            raise httpx.HTTPStatusError("", request=request, response=response)

    async def nobody_lives(*_: object) -> bool:
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "has_lease", nobody_lives)
        troubled = client(Troubled(runs=0, poisoned=0))
        found = await recovery._left(troubled, "pool", "1" * 32, lambda _: False)  # noqa: SLF001
    assert [run for run, _ in found] == runs[1:]


@pytest.mark.parametrize(("status", "may_be"), [(500, True), (502, False), (503, False)])
def test_a_gateway_that_cannot_reach_prefect_says_nothing_of_any_run(
    status: int, may_be: bool
) -> None:
    request = httpx.Request("POST", "http://prefect.invalid")
    error = httpx.HTTPStatusError("", request=request, response=httpx.Response(status))
    assert is_unreadable(error) is may_be


async def test_a_run_that_cannot_be_set_aside_keeps_no_other_from_it() -> None:
    class Stubborn(Prefect):
        """Fails to end the first run that it cannot tell of."""

        async def set_flow_run_state(self, run_id: UUID, *_: object, **__: object) -> None:
            """Note it, or fail."""
            if run_id == stuck:
                raise httpx.ReadTimeout("")
            self.ended.append(run_id)

    prefect = Stubborn(runs=20, poisoned=3)
    stuck, *others = [run for run in prefect.runs if run in prefect.poisoned]

    assert await set_aside_unreadable(client(prefect), "pool") == others
    assert prefect.ended == others
