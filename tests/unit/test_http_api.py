"""The parts of the Journeys API that need no Prefect."""

import asyncio
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr

from blocks.oauth import OAuthServer
from deployments.http_api.app import create_app
from deployments.http_api.board import Board
from deployments.http_api.hiding import without
from deployments.http_api.memory import Memory
from deployments.http_api.waiting import IN_ALL, LONGEST, PER_CALLER, Places, seconds_to_wait
from deployments.journey import Journey, JourneyStatus, Phase, UnknownJourneyError
from flows.refusals import FieldError, brief


def journey(journey_id: UUID, phase: Phase = "Running") -> Journey:
    attributes = {"tenantId": "acme", "batchId": "eod"}
    status = JourneyStatus(
        journey_id=journey_id,
        phase=phase,
        current_state="exchangeInitialToken",
        updated_at=datetime.now(UTC),
        attributes=attributes,
    )
    return Journey(status, "RUNNING", "", {})


class Reader:
    """Stands for Prefect: remembers what was read together, and may be told to fail."""

    def __init__(self) -> None:
        self.reads: list[set[UUID]] = []
        self.phase: Phase = "Running"
        self.unknown: set[UUID] = set()
        self.error: Exception | None = None

    async def __call__(self, ids):
        """What journeys.read does."""
        self.reads.append(set(ids))
        await asyncio.sleep(0.01)
        if self.error:
            raise self.error
        return {it: journey(it, self.phase) for it in ids if it not in self.unknown}


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def seconds(monkeypatch):
    """The clock of the board's memory, moved by hand."""
    clock = [0.0]
    monkeypatch.setattr("deployments.http_api.board.FRESH", 0.02)
    monkeypatch.setattr(
        "deployments.http_api.board.Memory", lambda size: Memory(size, lambda: clock[0])
    )
    return clock


async def settle() -> None:
    await asyncio.sleep(0.05)


async def test_however_many_poll_a_journey_it_is_read_once(reader, seconds):
    board, journey_id = Board(reader), uuid4()
    await asyncio.gather(*(board.journey(journey_id) for _ in range(50)))
    await board.journey(journey_id)
    assert reader.reads == [{journey_id}]


async def test_journeys_that_are_due_together_are_read_together(reader, seconds):
    board, ids = Board(reader), [uuid4() for _ in range(50)]
    await asyncio.gather(*(board.journey(it) for it in ids))
    assert set.union(*reader.reads) == set(ids)
    assert len(reader.reads) <= 3


async def test_an_older_answer_is_given_while_a_newer_one_is_read(reader, seconds):
    board, journey_id = Board(reader), uuid4()
    await board.journey(journey_id)
    reader.phase, seconds[0] = "Succeeded", 1.0
    assert (await board.journey(journey_id)).status.phase == "Running"
    await settle()
    assert (await board.journey(journey_id)).status.phase == "Succeeded"
    assert len(reader.reads) == 2


async def test_an_answer_that_is_too_old_is_not_given(reader, seconds):
    board, journey_id = Board(reader), uuid4()
    await board.journey(journey_id)
    reader.error, seconds[0] = httpx.ConnectError("away"), 1.0
    await board.journey(journey_id)
    seconds[0] = 6.0
    with pytest.raises(httpx.ConnectError):
        await board.journey(journey_id)
    reader.error = None
    assert (await board.journey(journey_id)).status.journey_id == journey_id


async def test_a_journey_that_succeeded_is_not_read_again(reader, seconds):
    board, journey_id = Board(reader), uuid4()
    reader.phase = "Succeeded"
    await board.journey(journey_id)
    seconds[0] = 10_000.0
    await board.journey(journey_id)
    assert len(reader.reads) == 1


async def test_an_unknown_journey_is_unknown_and_spoils_nothing(reader, seconds):
    board, known, unknown = Board(reader), uuid4(), uuid4()
    reader.unknown = {unknown}
    found, missing = await asyncio.gather(
        board.journey(known), board.journey(unknown), return_exceptions=True
    )
    assert isinstance(found, Journey)
    assert isinstance(missing, UnknownJourneyError)


async def test_one_who_gives_up_does_not_take_the_answer_from_the_others(reader, seconds):
    board, journey_id = Board(reader), uuid4()
    impatient = asyncio.create_task(board.journey(journey_id))
    patient = asyncio.create_task(board.journey(journey_id))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).status.journey_id == journey_id


def test_a_memory_keeps_the_latest_only():
    memory: Memory[int, str] = Memory(2, lambda: 0.0)
    for number in (1, 2, 1, 3):
        memory.put(number, str(number))
    assert [memory.get(number, within=1) for number in (1, 2, 3)] == ["1", None, "3"]


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=30", 30),
        ("respond-async, wait=5", 5),
        ('WAIT = "7"; x=1', 7),
        ("wait=99999", LONGEST),
        ("wait=0", 0),
        (None, None),
        ("", None),
        ("wait", None),
        ("wait=-1", None),
        ("await=3", None),
        ("wait=1.5", None),
    ],
)
def test_how_long_a_client_would_wait(prefer, seconds):
    assert seconds_to_wait(prefer) == seconds


@pytest.fixture
async def polling(unverified, reader):
    """A function that polls a running journey, for a minute at most; ends all polls at the end."""
    unverified.state.board = Board(reader)
    transport = httpx.ASGITransport(unverified)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        headers = {"Authorization": "Bearer anybody", "Prefer": "wait=60"}
        url, polls = f"/api/v1/journeys/{uuid4()}", []

        def poll() -> asyncio.Task[httpx.Response]:
            polls.append(asyncio.create_task(client.get(url, headers=headers)))
            return polls[-1]

        yield poll
        unverified.state.stopping.set()
        await asyncio.gather(*polls, return_exceptions=True)


async def test_one_caller_waits_for_so_many_answers_and_is_given_further_ones_at_once(polling):
    polls = [polling() for _ in range(PER_CALLER)]
    await asyncio.sleep(1)
    further = await asyncio.wait_for(polling(), 5)
    assert further.json()["phase"] == "Running"
    assert "Preference-Applied" not in further.headers
    assert not any(poll.done() for poll in polls)


async def test_who_gives_up_waiting_leaves_a_place(polling):
    impatient = [polling() for _ in range(PER_CALLER)]
    await asyncio.sleep(1)
    for poll in impatient:
        poll.cancel()
    await asyncio.gather(*impatient, return_exceptions=True)
    patient = polling()
    await asyncio.sleep(1)
    assert not patient.done()


def test_all_callers_together_wait_for_so_many_answers():
    places = Places()
    with ExitStack() as waits:
        for number in range(IN_ALL):
            assert waits.enter_context(places.taken_by(number))
        assert not waits.enter_context(places.taken_by("another"))
    with places.taken_by("another") as has_place:
        assert has_place


def test_an_error_that_quotes_the_token_hides_it():
    token = SecretStr("canary-0123456789-token")
    quoted = FieldError("interval", "is 'Bearer canary-0123456789-t...', but must be a duration")
    innocent = FieldError("tenantId", "is 'ü ✓', but must be shorter")
    hidden, same = without(token, [quoted, innocent])
    assert "canary" not in str(hidden)
    assert "must be a duration" in str(hidden)
    assert same == innocent


@pytest.fixture
async def unverified():
    """The app where callers are not verified, and Prefect is never asked."""

    async def load() -> OAuthServer:
        return OAuthServer(
            token_endpoint="https://auth.example.com/token", client_id="c", client_secret="s"
        )

    return create_app(load, serves_unverified=True)


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 415), ("[::1]", 415), ("192.0.2.1", 503), ("journeys.example.com", 503)],
)
async def test_without_verification_only_this_machine_is_served(unverified, host, status):
    transport = httpx.ASGITransport(unverified)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
        answer = await client.post(
            "/api/v1/journeys/daily-orders-batch-close/start",
            headers={"Authorization": "Bearer anybody"},
        )
        rebound = await client.post(
            "/api/v1/journeys/daily-orders-batch-close/start",
            headers={"Authorization": "Bearer anybody", "Host": "a-page.example"},
        )
    assert answer.status_code == status, answer.text
    assert rebound.status_code == 503


async def test_the_docs_page_shows_the_document(unverified):
    transport = httpx.ASGITransport(unverified)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        page = await client.get("/docs")
        assert "/openapi.json" in page.text
        assert (await client.get("/openapi.json")).json()["openapi"].startswith("3.1")


def test_thousands_of_errors_are_told_in_part_and_searched_in_no_time():
    token = SecretStr("canary-" + "0123456789abcdefghijklmnopqrstuvwxyz" * 100)
    errors = [FieldError(f"unknown-field-{at}", "is not plain JSON") for at in range(5000)]
    began = time.process_time()
    assert without(token, errors) == errors[:100]
    assert time.process_time() - began < 0.1


def test_an_error_that_shows_the_two_ends_of_the_token_hides_both():
    token = SecretStr("canary-" + "0123456789abcdefghijklmnopqrstuvwxyz" * 4)
    shown = brief(token.get_secret_value())
    assert shown.count("canary-0123456789") == 1
    [hidden] = without(token, [FieldError("interval", f"is {shown}, but must be a duration")])
    assert hidden.message == "is '[hidden]...[hidden]', but must be a duration"
