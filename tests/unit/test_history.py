"""What is kept of a binding's nights, and which of two things said of a night is believed."""

from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import uuid4

import orjson
import pytest
from pydantic import ValidationError

from blocks import history
from blocks.binding import Binding
from blocks.history import NIGHTS_KEPT, History
from blocks.history_rows import as_row, read_rows
from blocks.orders.results import SNAPSHOT_ID_BYTES
from blocks.outcome import REASON_BYTES, LastBatch, believed
from blocks.progress import MOST_NIGHTS, Context, Progress

BINDING = Binding("acme", "eod")
FIRST = datetime(2026, 11, 26, 22, tzinfo=UTC)
DAY = timedelta(days=1)
LONGEST_ID = "s" * SNAPSHOT_ID_BYTES
VARIABLE_BYTES = 5_000  # prefect.types.MAX_VARIABLE_VALUE_LENGTH, of what orjson writes


def outcome(status: str, *, night: int = 0, reason: str = "", inferred: bool = False) -> LastBatch:
    """An outcome of the night with this number."""
    return LastBatch(
        batch_id="eod",
        occurrence=FIRST + night * DAY,
        status=status,
        reason=reason or None,
        inferred=inferred,
    )


@pytest.mark.parametrize(
    ("known", "new", "counts"),
    [
        ("SKIPPED", "FAILED", "FAILED"),
        ("SKIPPED", "CLOSED", "CLOSED"),
        ("FAILED", "CLOSED", "CLOSED"),
        ("CLOSED", "FAILED", "CLOSED"),
        ("CLOSED", "SKIPPED", "CLOSED"),
        ("FAILED", "SKIPPED", "FAILED"),
    ],
)
def test_closed_outranks_failed_and_failed_outranks_skipped(
    known: str, new: str, counts: str
) -> None:
    assert believed(outcome(known), outcome(new)).status == counts


@pytest.mark.parametrize(
    ("status", "counts"), [("CLOSED", "first"), ("SKIPPED", "first"), ("FAILED", "second")]
)
def test_of_two_alike_the_first_counts_but_the_latest_failure(status: str, counts: str) -> None:
    first, second = outcome(status, reason="first"), outcome(status, reason="second")
    assert believed(first, second).reason == counts


@pytest.mark.parametrize("inferred", ["FAILED", "CLOSED", "SKIPPED"])
def test_what_was_recorded_is_never_replaced_by_what_was_inferred(inferred: str) -> None:
    recorded = outcome("SKIPPED", reason="recorded")
    assert believed(recorded, outcome(inferred, inferred=True)) == recorded


def test_what_was_inferred_gives_way_to_what_is_recorded() -> None:
    recorded = outcome("SKIPPED", reason="recorded")
    assert believed(outcome("SKIPPED", inferred=True), recorded) == recorded


def test_a_row_is_an_outcome_as_json_with_every_member() -> None:
    row = as_row(outcome("CLOSED").model_copy(update={"run": 2, "max_runs": 365}))
    assert row == {
        "occurrence": "2026-11-26T22:00:00Z",
        "status": "CLOSED",
        "snapshotId": None,
        "closedAt": None,
        "run": 2,
        "maxRuns": 365,
        "reason": None,
        "flowRunId": None,
        "inferred": False,
    }
    (night,) = read_rows(BINDING, [row]).values()
    assert as_row(night) == row


def test_rows_that_were_written_for_people_only_are_read() -> None:
    rows = [
        {
            "occurrence": "2026-11-26 22:00:00Z",
            "run": "2 of 365",
            "status": "CLOSED",
            "snapshot": "s-1",
            "closed at": "2026-11-26 22:20:01Z",
            "reason": "",
        },
        {
            "occurrence": "2026-11-27 22:00:00Z",
            "run": "",
            "status": "SKIPPED",
            "snapshot": "",
            "closed at": "",
            "reason": "No run of this night ever started.",
        },
    ]
    closed, skipped = read_rows(BINDING, rows).values()
    assert (closed.occurrence, closed.run, closed.max_runs) == (FIRST, 2, 365)
    assert (closed.snapshot_id, closed.closed_at) == ("s-1", FIRST + timedelta(seconds=1201))
    assert (closed.reason, closed.ok, closed.batch_id) == (None, True, "eod")
    assert (skipped.run, skipped.snapshot_id, skipped.closed_at) == (None, None, None)


async def test_what_cannot_be_read_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(keys: list[str]) -> dict[str, dict[str, str]]:
        return {key: {"data": '[{"occurrence": "?"}]', "latest_id": str(uuid4())} for key in keys}

    monkeypatch.setattr(history, "_read", answer)
    assert await history.read(BINDING) == History({})


async def test_the_latest_nights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, str]] = []

    class Client:
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def request(self, *_: str, json: dict[str, str]) -> None:
            sent.append(json)

    monkeypatch.setattr(history, "get_client", Client)
    nights = [outcome("CLOSED", night=number) for number in range(NIGHTS_KEPT + 3)]
    await history.write(BINDING, History({}), reversed(nights))

    kept = read_rows(BINDING, orjson.loads(sent[0]["data"]))
    assert [*kept] == [night.occurrence for night in nights[3:]]


def test_the_context_is_of_the_latest_night_that_has_an_outcome() -> None:
    context = Context().ended(outcome("CLOSED", night=1))
    assert context.ended(outcome("SKIPPED")).last_batch == outcome("CLOSED", night=1)
    assert context.ended(outcome("FAILED", night=1)).last_batch == outcome("CLOSED", night=1)
    assert context.ended(outcome("FAILED", night=2)).last_batch == outcome("FAILED", night=2)


def test_a_night_that_is_over_is_kept_no_longer_and_a_failed_one_is() -> None:
    both = (Progress(occurrence=FIRST, snapshot_id="a"), Progress(occurrence=FIRST + DAY))
    context = Context(nights=both)
    assert context.ended(outcome("CLOSED")).nights == both[1:]
    (failed, _) = context.ended(outcome("FAILED")).nights
    assert (failed.snapshot_id, failed.has_failed) == ("a", True)


def test_no_more_than_a_few_nights_are_kept_and_those_longest_that_may_have_been_closed() -> None:
    context, dropped = Context(), []
    for number in range(MOST_NIGHTS + 2):
        moment = FIRST + number * DAY
        closing = moment if number in {0, 1} else None
        progress = Progress(occurrence=moment, snapshot_id="s", closing_at=closing)
        context, more = context.noted(progress)
        dropped += more

    assert [night.occurrence for night in dropped] == [FIRST + 2 * DAY, FIRST + 3 * DAY]
    assert len(context.nights) == MOST_NIGHTS


def test_the_largest_context_fits_into_a_variable() -> None:
    name = "\N{PERFORMING ARTS}" * 200
    context = Context(ended_at=FIRST.replace(microsecond=123456))
    for number in range(MOST_NIGHTS):
        moment = (FIRST + number * DAY).replace(microsecond=123456)
        noted = {"snapshot_id": LONGEST_ID, "snapshot_at": moment, "closing_at": moment}
        context, _ = context.noted(Progress(occurrence=moment, has_failed=True, **noted))
    last = LastBatch(
        batch_id=name,
        occurrence=FIRST + 9 * DAY,
        status="FAILED",
        snapshot_id=LONGEST_ID,
        closed_at=FIRST,
        run=99_999,
        max_runs=100_000,
        reason=name * 9,
        inferred=True,
    )
    assert len(last.reason.encode()) <= REASON_BYTES
    stored = orjson.dumps(context.ended(last).as_stored())
    assert len(context.nights) >= 4
    assert len(stored) <= VARIABLE_BYTES


def test_a_reason_is_one_line() -> None:
    assert outcome("FAILED", reason="Cannot\n  be loaded.\n").reason == "Cannot be loaded."


def test_a_moment_without_an_offset_is_no_occurrence() -> None:
    with pytest.raises(ValidationError):
        LastBatch(batch_id="eod", occurrence=FIRST.replace(tzinfo=None), status="CLOSED")


async def test_a_name_that_looks_like_markdown_is_shown_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[str] = []

    class Client:
        """Notes what is to be shown."""

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def request(self, *_: object, json: dict[str, str]) -> None:
            """Note it."""
            shown.append(json["description"])

    async def nothing() -> None:
        pass

    monkeypatch.setattr(history, "get_client", Client)
    monkeypatch.setattr(history, "require_lease", nothing)
    image = Binding("![x](http://a.example/p.png)", "<b>`eod`</b>")
    await history.write(image, History({}), [outcome("CLOSED")])

    name = r"\!\[x\]\(http\:\/\/a\.example\/p\.png\)\/\<b\>\`eod\`\<\/b\>"
    assert shown == [f"The nights of {name}, the latest last."]
