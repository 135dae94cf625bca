"""When a worker looks for due runs."""

import asyncio
from datetime import datetime, timedelta

import pytest

from blocks import clock
from deployments.due import DueMoments

LONG = 3600.0


def in_seconds(seconds: float) -> datetime:
    return clock.now() + timedelta(seconds=seconds)


async def test_it_looks_when_the_next_run_falls_due() -> None:
    due = DueMoments()
    due.add([in_seconds(60), soon := in_seconds(0.05)])
    await due.wait(at_most=LONG)
    assert soon <= clock.now() < in_seconds(1)


async def test_it_looks_sooner_when_it_hears_of_an_earlier_run() -> None:
    due = DueMoments()
    due.add([in_seconds(60)])
    waiting = asyncio.create_task(due.wait(at_most=LONG))
    await asyncio.sleep(0)
    due.add([in_seconds(0.05)])
    async with asyncio.timeout(5):
        await waiting


async def test_it_looks_after_a_while_though_it_has_heard_of_nothing() -> None:
    async with asyncio.timeout(5):
        await DueMoments().wait(at_most=0.05)


async def test_a_moment_that_has_come_is_forgotten() -> None:
    due = DueMoments()
    due.add([in_seconds(-5)])
    await due.wait(at_most=LONG)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(due.wait(at_most=LONG), 0.05)
