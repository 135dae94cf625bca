"""The clock that the project goes by: the Prefect server's, whatever this machine's shows."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from blocks import clock

SERVER = datetime(2027, 3, 27, 22, 0, tzinfo=UTC)
HARDLY = timedelta(milliseconds=1)


class Passing:
    """Stands for the seconds since the machine started; they pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        """The seconds until now."""
        return self.seconds


@pytest.fixture(autouse=True)
def _nothing_known_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_answers", [])


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Passing:
    passing = Passing()
    monkeypatch.setattr(clock, "elapsed", passing)
    return passing


def ahead() -> timedelta:
    """How far the clock is ahead of the server's, which was SERVER when 1000 seconds had passed."""
    return clock.now() - (SERVER + timedelta(seconds=clock.elapsed() - 1000))


def answer(passing: Passing, *, took: float = 0.0, server_is_off_by: float = 0.0) -> None:
    """The server says how late it is, and that takes so many seconds to arrive."""
    said = SERVER + timedelta(seconds=passing.seconds - 1000 + server_is_off_by)
    passing.seconds += took
    clock.compare(said)


@pytest.mark.parametrize("minutes", [5, -5])
def test_a_corrected_wall_clock_does_not_move_what_has_elapsed(minutes: int) -> None:
    before = clock.elapsed()
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=minutes)):
        assert 0 <= clock.elapsed() - before < 5


def test_before_any_answer_of_the_server_the_wall_clock_is_believed() -> None:
    with time_machine.travel(SERVER, tick=False):
        assert clock.now() == SERVER


@pytest.mark.parametrize("minutes", [5, -5])
def test_a_wall_clock_that_was_wrong_all_along_is_not_believed_any_more(minutes: int) -> None:
    server = datetime.now(UTC)
    with time_machine.travel(server + timedelta(minutes=minutes)):
        clock.compare(server)

        assert abs(clock.now() - server) < timedelta(seconds=5)


@pytest.mark.parametrize("minutes", [5, -5])
def test_a_wall_clock_that_is_corrected_after_comparisons_does_not_move_the_time(
    minutes: int,
) -> None:
    server = datetime.now(UTC)
    with time_machine.travel(server + timedelta(minutes=minutes)):
        for _ in range(100):
            clock.compare(server)

    assert abs(clock.now() - server) < timedelta(seconds=5)


def test_a_slow_answer_never_makes_it_early_and_a_quicker_one_beside_it_counts(
    passing: Passing,
) -> None:
    answer(passing, took=20)
    assert abs(ahead() + timedelta(seconds=20)) < HARDLY
    answer(passing, took=0.25)
    assert abs(ahead() + timedelta(seconds=0.25)) < HARDLY
    answer(passing, took=30)
    assert abs(ahead() + timedelta(seconds=0.25)) < HARDLY


@pytest.mark.parametrize("seconds", [60, -60])
def test_a_server_whose_own_clock_is_corrected_is_followed_within_minutes(
    passing: Passing, seconds: int
) -> None:
    answer(passing)
    for _ in range(5):
        passing.seconds += 60
        answer(passing, server_is_off_by=seconds)

    assert abs(ahead() - timedelta(seconds=seconds)) < HARDLY


def test_the_newest_answer_counts_however_old_it_is(passing: Passing) -> None:
    answer(passing)
    passing.seconds += 20 * 3600

    assert abs(ahead()) < HARDLY


def test_silence_does_not_make_the_time_jump(passing: Passing) -> None:
    answer(passing)
    answer(passing, took=20)
    passing.seconds += 3600

    assert abs(ahead()) < HARDLY


def test_the_time_is_a_plain_datetime_in_utc(passing: Passing) -> None:
    answer(passing)

    assert type(clock.now()) is datetime
    assert clock.now().tzinfo is UTC


@pytest.mark.parametrize("took", [0.01, 3.0])
def test_a_server_whose_clock_was_set_back_is_followed_at_the_next_quick_answer(
    passing: Passing, took: float
) -> None:
    answer(passing, server_is_off_by=40)
    passing.seconds += 10
    asked_at = passing.seconds
    said = SERVER + timedelta(seconds=asked_at - 1000)
    passing.seconds += took
    clock.compare(said, asked_at=asked_at)

    assert -took - 0.001 <= ahead().total_seconds() <= 0


def test_an_answer_that_was_only_slow_does_not_set_the_clock_back(passing: Passing) -> None:
    answer(passing, took=0.1)
    asked_at = passing.seconds
    said = SERVER + timedelta(seconds=asked_at + 1 - 1000)
    passing.seconds += 20
    clock.compare(said, asked_at=asked_at)

    assert abs(ahead() + timedelta(seconds=0.1)) < HARDLY
