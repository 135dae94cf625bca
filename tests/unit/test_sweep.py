"""How often a worker looks for what nobody needs, and that it does."""
# ruff: noqa: SLF001  (a worker is not started for it)

import asyncio
from typing import cast

import pytest
from prefect.client.orchestration import PrefectClient

from blocks import ownership
from blocks.lease import Lease, OwnershipLostError
from deployments import sweep
from deployments.sweep import Sweep, sweep_seconds
from deployments.worker import BatchCloseWorker


def test_the_interval_is_a_minute_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATCH_CLOSE_SWEEP_SECONDS", raising=False)
    assert sweep_seconds() == 60
    monkeypatch.setenv("BATCH_CLOSE_SWEEP_SECONDS", "5")
    assert sweep_seconds() == 5


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "601", "inf"])
def test_an_interval_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BATCH_CLOSE_SWEEP_SECONDS", text)
    with pytest.raises(ValueError, match="must be seconds, from 1 to 600"):
        sweep_seconds()


async def test_grants_are_looked_at_at_every_fifth_look_and_whatever_became_of_the_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = []

    async def troubled(_: object) -> None:
        looks.append("tokens")
        raise RuntimeError("whatever it is")

    async def look(*_: object) -> None:
        looks.append("grants")

    async def nothing(_: object) -> None: ...

    monkeypatch.setattr(sweep, "delete_left", nothing)
    monkeypatch.setattr(sweep, "delete_unneeded", troubled)
    monkeypatch.setattr(sweep.UnneededGrants, "look", look)
    worker = Sweep()
    for _ in range(6):
        await worker.look(cast("PrefectClient", object()))

    assert looks == ["tokens", "grants", *["tokens"] * 5, "grants"]


async def test_a_worker_looks_under_its_lease_and_goes_on_after_it_was_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = asyncio.Queue[object]()

    async def look(*_: object) -> None:
        await seen.put(ownership.current())
        raise OwnershipLostError("somebody else has it")

    monkeypatch.setattr(Sweep, "look", look)
    monkeypatch.setattr("deployments.worker.sweep_seconds", lambda: 0.01)
    worker = BatchCloseWorker("pool", name="worker")
    worker._client = cast("PrefectClient", object())
    worker._lease = Lease("worker")
    sweeping = asyncio.create_task(worker._sweep())

    works = [await seen.get() for _ in range(2)]

    sweeping.cancel()
    assert all(isinstance(it, ownership.Work) and it.lease is worker._lease for it in works)
