"""The few places at which runs are executed, and that one who only waits lends its own."""

import asyncio

import pytest

from blocks import places
from blocks.places import Places, lent_while_waiting


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "LENT_AFTER", 0.02)


async def hang(only: Places, until: asyncio.Event, tenant: str = "") -> None:
    """Take a place, and wait there for somebody else's system."""
    async with only.one(tenant), lent_while_waiting():
        await until.wait()


async def test_no_more_are_at_work_than_there_are_places() -> None:
    only = Places(1)
    async with only.one():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(only.one().__aenter__(), 0.05)


async def test_one_that_hangs_lends_its_place() -> None:
    only, over = Places(1), asyncio.Event()
    hanging = asyncio.create_task(hang(only, over))
    await asyncio.sleep(0)

    async with asyncio.timeout(1), only.one():
        pass
    over.set()
    await hanging


async def test_one_that_comes_back_waits_for_a_place_again() -> None:
    only, over = Places(1), asyncio.Event()
    hanging = asyncio.create_task(hang(only, over))
    await asyncio.sleep(0)

    async with only.one():
        over.set()
        await asyncio.sleep(0.01)
        assert not hanging.done()
    await hanging


async def test_places_are_lent_only_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "LENT_AT_MOST", 0)
    only, over = Places(1), asyncio.Event()
    hanging = asyncio.create_task(hang(only, over))
    await asyncio.sleep(0)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(only.one().__aenter__(), 0.1)
    over.set()
    await hanging


async def test_after_it_all_there_are_as_many_places_as_before() -> None:
    only, over = Places(2), asyncio.Event()
    hanging = [asyncio.create_task(hang(only, over)) for _ in range(5)]
    await asyncio.sleep(0.1)
    hanging[0].cancel()
    over.set()
    await asyncio.gather(*hanging, return_exceptions=True)

    async with asyncio.timeout(1), only.one(), only.one():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(only.one().__aenter__(), 0.05)


async def test_without_a_place_nothing_is_lent() -> None:
    async with lent_while_waiting():
        pass


@pytest.mark.parametrize("hanging", [4, 500])
async def test_a_tenant_of_many_nights_that_hang_leaves_places_to_the_others(hanging: int) -> None:
    only, over = Places(4), asyncio.Event()
    many = [asyncio.create_task(hang(only, over, "noisy")) for _ in range(hanging)]
    await asyncio.sleep(0.2)

    async with asyncio.timeout(1), only.one("innocent"):
        pass
    over.set()
    await asyncio.gather(*many)


async def test_a_tenant_that_is_alone_has_its_share_again_after_it_all() -> None:
    only, over = Places(4), asyncio.Event()
    many = [asyncio.create_task(hang(only, over, "noisy")) for _ in range(100)]
    await asyncio.sleep(0.1)
    for one in many[::2]:
        one.cancel()
    over.set()
    await asyncio.gather(*many, return_exceptions=True)

    async with asyncio.timeout(1), only.one("noisy"), only.one("noisy"), only.one("noisy"):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(only.one("noisy").__aenter__(), 0.05)
    assert only.lent == 0
