"""What several ask for within a moment, asked for once."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest

from blocks import together
from blocks.places import Places
from blocks.together import Together


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "GATHERED_FOR", 0.02)


async def side_by_side(*asking: Callable[[], Awaitable[str | None]]) -> list[str | None]:
    """What they get when they ask at the same time, each at a worker's place of its own."""
    places = Places(len(asking))

    async def one(ask: Callable[[], Awaitable[str | None]]) -> str | None:
        async with places.one():
            return await ask()

    return await asyncio.gather(*map(one, asking))


async def test_several_are_asked_for_once_and_each_gets_its_own_answer() -> None:
    asked: list[list[int]] = []

    async def ask(numbers: list[int]) -> dict[int, str]:
        asked.append(numbers)
        return {number: str(number) for number in numbers}

    shared = Together(ask, most=50)
    answers = await side_by_side(*(lambda n=n: shared.get(n) for n in range(4)))

    assert (asked, answers) == ([[0, 1, 2, 3]], ["0", "1", "2", "3"])


async def test_no_more_are_asked_for_at_once_than_can_be() -> None:
    asked: list[int] = []

    async def ask(numbers: list[int]) -> dict[int, str]:
        asked.append(len(numbers))
        return dict.fromkeys(numbers, "it")

    shared = Together(ask, most=2)

    assert await side_by_side(*(lambda n=n: shared.get(n) for n in range(4))) == ["it"] * 4
    assert asked == [2, 2]


async def test_what_is_not_in_the_answer_is_left_to_who_wants_it() -> None:
    async def ask(_numbers: list[int]) -> dict[int, str]:
        return {0: "it"}

    shared = Together(ask, most=50)

    assert await side_by_side(*(lambda n=n: shared.get(n) for n in range(3))) == ["it", None, None]


async def test_where_asking_fails_each_asks_alone_and_learns_why() -> None:
    async def ask(_numbers: list[int]) -> dict[int, str]:
        raise httpx.ConnectError("nobody there")

    shared = Together(ask, most=50)

    assert await side_by_side(*(lambda n=n: shared.get(n) for n in range(2))) == [None, None]


async def test_one_who_goes_away_takes_nothing_from_the_others() -> None:
    async def ask(numbers: list[int]) -> dict[int, str]:
        return dict.fromkeys(numbers, "it")

    shared = Together(ask, most=50)

    async def goes_away() -> str | None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(shared.get(0), 0.001)
        return "gone"

    answers = await side_by_side(goes_away, lambda: shared.get(1), lambda: shared.get(2))

    assert answers == ["gone", "it", "it"]


async def test_the_same_is_not_waited_for_twice() -> None:
    async def ask(numbers: list[int]) -> dict[int, str]:
        return dict.fromkeys(numbers, "it")

    shared = Together(ask, most=50)
    answers = await side_by_side(*(lambda n=n: shared.get(n) for n in (1, 1, 2)))

    assert answers == ["it", None, "it"]


async def test_without_company_nobody_waits() -> None:
    async def ask(_numbers: list[int]) -> dict[int, str]:
        raise AssertionError("alone")

    assert await Together(ask, most=50).get(1) is None
    assert await side_by_side(lambda: Together(ask, most=50).get(1)) == [None]


FAILURES = [KeyError("nobody counts on it"), RuntimeError("broken"), asyncio.CancelledError()]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_whatever_asking_raises_everyone_is_answered_and_later_ones_begin_anew(
    failure: BaseException,
) -> None:
    asked: list[list[int]] = []

    async def ask(numbers: list[int]) -> dict[int, str]:
        asked.append(numbers)
        if len(asked) == 1:
            raise failure
        return dict.fromkeys(numbers, "it")

    shared = Together(ask, most=2)

    async with asyncio.timeout(5):
        first = await side_by_side(*(lambda n=n: shared.get(n) for n in range(6)))
        later = await side_by_side(*(lambda n=n: shared.get(n) for n in (7, 8)))

    assert first[:2] == [None, None]
    assert later == ["it", "it"]


@pytest.mark.parametrize("after", [0, 0.001], ids=["before it begins", "while it gathers"])
async def test_where_asking_is_cancelled_nobody_waits_for_ever(after: float) -> None:
    async def ask(numbers: list[int]) -> dict[int, str]:
        return dict.fromkeys(numbers, "it")

    shared = Together(ask, most=2)

    async def cancel() -> None:
        await asyncio.sleep(after)
        for asking in list(shared._asking):  # noqa: SLF001 - nobody else holds it
            asking.cancel()

    async with asyncio.timeout(5):
        wanted = [lambda n=n: shared.get(n) for n in range(3)]
        first = await side_by_side(*wanted, cancel)
        later = await side_by_side(*wanted)

    assert first == [None] * 4
    assert later == ["it", "it", None]


async def test_a_surprising_failure_is_logged_without_what_it_quotes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ask(_numbers: list[int]) -> dict[int, str]:
        raise KeyError("canary")

    shared = Together(ask, most=50)
    await side_by_side(*(lambda n=n: shared.get(n) for n in range(2)))

    assert "KeyError" in caplog.text
    assert "canary" not in caplog.text
