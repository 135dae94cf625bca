"""Which journeys have not ended: none that lives is overlooked, whatever ends meanwhile."""

from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

from blocks import clock
from deployments import unfinished_journeys
from deployments.unfinished_journeys import read_unfinished, tokens_named


class Prefect:
    """A Prefect API with unfinished journeys, of which the first ends after each list it gives."""

    def __init__(self, number: int) -> None:
        self.runs = sorted((_journey(number) for number in range(number)), key=lambda it: it.id)
        self.living = [run.id for run in self.runs]

    async def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        """One page of what is asked for."""
        wanted = options["json"]
        found = [run for run in self.runs if self._matches(run, wanted["flow_runs"])]
        first = wanted.get("offset", 0)
        page = [it.model_dump(mode="json") for it in found[first : first + wanted["limit"]]]
        if "state" in wanted["flow_runs"]:
            self.living = self.living[1:]
        request = httpx.Request(method, f"http://prefect.invalid{url}")
        return httpx.Response(200, request=request, json=page)

    def _matches(self, run: FlowRun, wanted: dict[str, Any]) -> bool:
        ids = wanted.get("id", {})
        if "any_" in ids and str(run.id) not in ids["any_"]:
            return False
        is_told = str(run.id) in ids.get("not_any_", [])
        return not is_told and ("state" not in wanted or run.id in self.living)


def _journey(number: int) -> FlowRun:
    given = {"access_token_block": f"caller-{number}"}
    now = clock.now()
    return FlowRun(id=uuid4(), flow_id=UUID(int=0), created=now, parameters=given)


async def test_a_journey_that_lives_is_found_though_others_end_between_two_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unfinished_journeys, "PAGE", 2)
    prefect = Prefect(7)

    named = tokens_named(await read_unfinished(cast("PrefectClient", prefect)))

    living = [run for run in prefect.runs if run.id in prefect.living]
    assert living
    assert named >= {run.parameters["access_token_block"] for run in living}
