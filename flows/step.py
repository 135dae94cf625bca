"""A step of a flow: a Prefect task that reports once how it went, instead of three times.

Prefect's own tasks are reported as Pending, as Running and as Completed, and each report costs the
server some milliseconds. Nobody reads the first two of a step that is over in an instant: so it is
reported when it has ended, and as Running only while it lasts.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar
from uuid import uuid4

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import Event
from prefect.exceptions import Pause
from prefect.states import Cancelled, Completed, Crashed, Failed, Running
from prefect.utilities.engine import emit_task_run_state_change_event

SHOWN_AFTER = 5.0
"""Seconds after which a step that is not over is reported as Running."""

P = ParamSpec("P")
R = TypeVar("R")


def step(function: Callable[P, Coroutine[Any, Any, R]]) -> Task[P, Coroutine[Any, Any, R]]:
    """Make an async function a step.

    Nothing that it returns is persisted: results lie on one machine's disk, and some hold tokens.
    Prefect never retries it: the blocks retry requests by their receivers' rules, and a refresh
    that is blindly sent again costs the grant.
    """
    return _Step(fn=function, persist_result=False, cache_policy=NO_CACHE, retries=0)


class _Step(Task[P, Coroutine[Any, Any, R]]):
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:  # type: ignore[override]
        context = FlowRunContext.get()
        if context is None or context.flow_run is None:
            return super().__call__(*args, **kwargs)
        return _run(self, context, self.fn(*args, **kwargs))


async def _run(step: _Step[..., R], flow: FlowRunContext, work: Coroutine[Any, Any, R]) -> R:
    report = _Report(step, flow)
    showing = asyncio.get_running_loop().call_later(SHOWN_AFTER, report.show)
    try:
        with report.inside():
            result = await work
    except Exception as error:
        report.end(Failed(message=f"{type(error).__name__}: {error}"))
        raise
    except Pause:
        report.end(Cancelled(message="The run waits: this step begins again after that."))
        raise
    except BaseException:
        report.end(Crashed(message="Stopped while it was executed."))
        raise
    finally:
        showing.cancel()
    report.end(Completed())
    return result


class _Report:
    """What Prefect is told of one execution of a step."""

    def __init__(self, step: _Step[..., Any], flow: FlowRunContext) -> None:
        self._step, self._flow = step, flow
        self._latest: Event | None = None
        key = str(uuid4())
        running: State[Any] = Running()
        self._run = TaskRun(
            name=f"{step.name}-{key[:3]}",
            flow_run_id=flow.flow_run and flow.flow_run.id,
            task_key=step.task_key,
            dynamic_key=key,
            tags=list(step.tags),
            run_count=1,
            expected_start_time=running.timestamp,
            start_time=running.timestamp,
            state=running,
        )

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The step's own context: what is logged in it is shown with it."""
        with TaskRunContext(
            task=self._step,
            task_run=self._run,
            parameters={},
            client=self._flow.client,
            result_store=self._flow.result_store,
            persist_result=False,
        ):
            yield

    def show(self) -> None:
        """Report that the step is under way."""
        self._tell(self._run.state or Running())

    def end(self, state: State[Any]) -> None:
        """Report how the step ended."""
        began = self._run.start_time or state.timestamp
        ended = {"end_time": state.timestamp, "total_run_time": state.timestamp - began}
        self._run = self._run.model_copy(update=ended)
        self._tell(state)

    def _tell(self, state: State[Any]) -> None:
        before, self._run.state = self._run.state, state
        # Prefect would look up the run's deployment for each event: another for each tenant.
        known = {"deployment_id": None, "work_queue_id": None, "work_pool_name": None}
        run = self._flow.flow_run and self._flow.flow_run.model_copy(update=known)
        with self._flow.model_copy(update={"flow_run": run}):
            self._latest = emit_task_run_state_change_event(self._run, before, state, self._latest)
