"""The clock that the project goes by: the Prefect server's, whatever this machine's shows."""

from datetime import UTC, datetime, timedelta

import time_machine

from blocks import clock


def test_a_corrected_wall_clock_does_not_move_what_has_elapsed():
    before = clock.elapsed()
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=5)):
        assert 0 <= clock.elapsed() - before < 5
    with time_machine.travel(datetime.now(UTC) - timedelta(minutes=5)):
        assert 0 <= clock.elapsed() - before < 5
