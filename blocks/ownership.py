"""The question before each effect: is what this work holds still its own?

A process that was frozen, cut off or slow may have been given up meanwhile, and a run cancelled,
suspended or deleted. So nothing leaves for an outside system before `require` has returned, and
nothing is written to Prefect before `require_lease` has. What remains is a process that is frozen
between this question and the first byte of its request: microseconds, which no server outside lets
a client close.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext

from blocks import clock
from blocks.claim import Claim
from blocks.lease import Lease, OwnershipLostError, OwnershipUnknownError
from blocks.run_states import overwritten_stop
from blocks.together import Together

JUST_SEEN = 1.0
"""Seconds after which Prefect is asked again whether a run is still as it was."""

_UNANSWERED = "daily-orders-batch-close.unanswered"
_NOT_DONE = {403, 429, 503}
"""Answers of Prefect's own to what it has not done: no token against forgery, too busy."""

_WITHOUT_BODY = {httpx.codes.NO_CONTENT, httpx.codes.NOT_MODIFIED}

_EXECUTED = {StateType.PENDING, StateType.RUNNING}


@dataclass
class Work:
    """What is done under a lease.

    Attributes:
        lease: The lease of the process that does it.
        run_id: The flow run that the process has claimed for it, if any.
        seen_at: When Prefect last told that the run is this process's, by `clock.elapsed`.
    """

    lease: Lease
    run_id: UUID | None = None
    seen_at: float = float("-inf")


_PROCESS_ID = uuid4().hex
_work: ContextVar[Work | None] = ContextVar("work", default=None)


@contextmanager
def working(work: Work | None) -> Iterator[None]:
    """Do what is in the block as this work, or as none."""
    token = _work.set(work)
    try:
        yield
    finally:
        _work.reset(token)


def current() -> Work | None:
    """The work under way, if it is done under a lease."""
    return _work.get()


def of_process() -> Work | None:
    """The work under way without its run: what is done for several runs is no one's of them."""
    work = _work.get()
    return Work(work.lease) if work else None


def process_id() -> str:
    """The id under which this work is done, or else this process's."""
    work = _work.get()
    return work.lease.process.id if work else _PROCESS_ID


async def require_lease() -> None:
    """Return if no other process can have taken what this work holds.

    For what is written after an effect outside: it is recorded however the run stands by then.
    Raises OwnershipLostError and OwnershipUnknownError.
    """
    if work := _work.get():
        await work.lease.require()


async def require() -> None:
    """Return if what this work holds is its own at this moment.

    Raises:
        OwnershipLostError: It is not: the lease was ended, or the run is cancelled, suspended,
            deleted, or another process's.
        OwnershipUnknownError: Prefect cannot be asked.
    """
    work = _work.get()
    if work is None:
        context = FlowRunContext.get()  # Prefect's own engine executes it, elsewhere
        if context and context.flow_run and context.flow_run.state:
            await _require_run(context.flow_run.id, None)
        return
    await work.lease.require()
    if work.run_id and clock.elapsed() - work.seen_at >= JUST_SEEN:
        asked_at = clock.elapsed()
        await _require_run(work.run_id, work.lease.process.id)
        work.seen_at = asked_at


def ask_again() -> None:
    """Believe nothing of what Prefect told of the run before: it has waited since."""
    if work := _work.get():
        work.seen_at = float("-inf")


async def on_the_wire(event: str, _: Mapping[str, Any]) -> None:
    """For httpx's "trace" extension: the lease once more, right before a request's first byte.

    To find a place and a connection may have taken longer than the lease lasts.
    """
    work = _work.get()
    if work and event.endswith("send_request_headers.started") and not work.lease.is_sure:
        raise OwnershipUnknownError("This process stood still before its request was sent.")


async def on_request_to_prefect(request: httpx.Request) -> None:
    """For httpx's event hook "request": nothing is changed in Prefect by who was given up.

    Prefect's client sends a request again after pauses of its own. A change of state whose answer
    was lost is not sent again so: the run may have been claimed by somebody else meanwhile.
    """
    if request.method == "GET":
        return
    await require_lease()
    if request.url.path.endswith("set_state"):
        if request.extensions.get(_UNANSWERED):
            raise OwnershipUnknownError("Whether a state was set is not known: no answer came.")
        request.extensions = {**request.extensions, _UNANSWERED: True}


async def on_answer_from_prefect(response: httpx.Response) -> None:
    """For httpx's event hook "response": what the server has refused may be sent again.

    Raises httpx.RemoteProtocolError for what is no answer of Prefect's: what stands before a server
    that is being replaced answers anything, pages with 200 and 404 too.
    """
    is_json = response.headers.get("Content-Type", "").startswith("application/json")
    if response.status_code < httpx.codes.INTERNAL_SERVER_ERROR and not (
        is_json or response.status_code in _WITHOUT_BODY
    ):
        raise httpx.RemoteProtocolError(
            f"Something else than Prefect answered, with {response.status_code}.",
            request=response.request,
        )
    if response.status_code in _NOT_DONE:
        extensions = response.request.extensions
        response.request.extensions = {**extensions, _UNANSWERED: False}


async def _require_run(run_id: UUID, process: str | None) -> None:
    try:
        run = await _together.get(run_id) or (await _read([run_id])).get(run_id)
    except httpx.HTTPError as error:
        raise OwnershipUnknownError(
            f"Prefect does not tell how the run stands ({type(error).__name__})."
        ) from None
    if run is None:
        raise OwnershipLostError("The run was deleted.")
    state = run["state"]
    claim = Claim.in_message(state["message"])
    if state["type"] not in _EXECUTED or (process and claim and claim.process != process):
        raise OwnershipLostError(f"The run is {state['name']} now.")
    if _may_have_been_stopped(run) and (stop := await overwritten_stop(run_id)):
        async with get_client() as client:
            await client.set_flow_run_state(run_id, stop, force=True)
        raise OwnershipLostError(f"Somebody had set the run to {stop.name}: it is so again.")


def _may_have_been_stopped(run: Mapping[str, Any]) -> bool:
    """Whether somebody may have suspended the run, or cancelled it right before it began.

    A run that was suspended keeps that for good; one that ended before it began has begun, for
    Prefect, at that moment.
    """
    state = run["state"]
    has_just_begun = state["type"] == StateType.RUNNING and run["run_count"] == 1
    return bool(run["empirical_policy"]["pause_keys"]) or (
        has_just_begun and run["start_time"] != state["timestamp"]
    )


async def _read(run_ids: list[UUID]) -> dict[UUID, dict[str, Any]]:
    wanted = {"id": {"any_": [str(run_id) for run_id in run_ids]}}
    # As they come: Prefect's models take longer than the rest of the request.
    async with get_client() as client:
        answer = await client.request("POST", "/flow_runs/filter", json={"flow_runs": wanted})
    return {UUID(run["id"]): run for run in answer.json() if run["state"]}


_together = Together(_read, most=50)
