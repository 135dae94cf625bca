"""Machines whose clocks disagree: the worker's is ahead of the server's, or behind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.stack import Part
from tests.end_to_end.nights import Nights, due_together

# Python runs a module of this name before anything else: the whole worker lives in another time.
SHIFT = """
from datetime import UTC, datetime, timedelta
import time_machine
time_machine.travel(datetime.now(UTC) + timedelta(seconds={seconds}), tick=True).start()
"""


@pytest.mark.parametrize("seconds", [60, -15], ids=["a minute ahead", "a quarter minute behind"])
async def test_a_worker_with_a_wrong_clock_closes_once_and_never_early(
    start_worker: Callable[..., Part], nights: Nights, tmp_path: Path, seconds: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SHIFT.format(seconds=seconds))
    start_worker(PYTHONPATH=str(tmp_path))
    await due_together([nights], upstream_wait=8, replication_delay=5)

    await nights.reach("Completed")
    (run,), (close,) = await nights.runs(), nights.closes()
    assert close.occurrence == run.expected_start_time
