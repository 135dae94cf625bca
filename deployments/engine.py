"""Executes one flow run in the event loop that calls it, among many others.

What Prefect's own engine does, without what it does for each run anew, which a thousand runs at
once cannot afford: a thread with an event loop and a websocket that listens for the run's
suspension, an API client with its certificates, and API calls that read the run once more.
"""

import asyncio
import logging
from typing import Any
from weakref import WeakKeyDictionary

from prefect import Flow
from prefect._internal.engine import resolve_custom_flow_run_name
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import Abort, Pause
from prefect.flows import FlowStateHook
from prefect.logging.loggers import flow_run_logger
from prefect.results import ResultStore, get_result_store
from prefect.states import Cancelled, Running, exception_to_failed_state, return_value_to_state

from blocks.lease import OwnershipUnknownError
from blocks.places import leave_for_good
from blocks.proposals import propose
from deployments.validation import validated

_result_stores: WeakKeyDictionary[Flow[..., Any], ResultStore] = WeakKeyDictionary()

INVALID = "Validation of flow parameters failed with error:"
"""What Prefect's own engine says of a flow that could not begin."""

RAISED = "Flow run encountered an exception:"
"""What it says of one that raised."""


class NotPlainError(Exception):
    """The flow needs what only Prefect's own engine does."""


def require_plain(flow: Flow[..., Any]) -> Flow[..., Any]:
    """The flow, if it can be executed here; raises NotPlainError."""
    if flow.isasync and not flow.isgenerator and not flow.retries and not flow.timeout_seconds:
        return flow
    raise NotPlainError(
        f"{flow.name} is not an async flow without retries and timeout of its own: deploy it to a"
        " work pool of another type."
    )


async def execute(flow: Flow[..., Any], run: FlowRun, client: PrefectClient) -> None:
    """Execute the run up to its end or its next wait, as its state says afterwards.

    Args:
        flow: An async flow without retries and timeout of its own.
        run: The run, which this process has claimed.
        client: Prefect's API.
    """
    try:
        with await _context(flow, run, client):
            await _execute(flow, run, client)
    except Abort as withdrawn:
        flow_run_logger(run, flow).info("Stopped: %s", withdrawn)
    except Pause as wait:
        run.state = wait.state


async def end_cancelled(flow: Flow[..., Any] | None, run: FlowRun, client: PrefectClient) -> None:
    """End a run that was cancelled while it was executed; its flow, if it came as far."""
    run.state = Cancelled(message="Cancelled while it was executed.")
    await client.set_flow_run_state(run.id, run.state, force=True)
    if flow:
        await _call_hooks(flow.on_cancellation_hooks, flow, run)


async def _execute(flow: Flow[..., Any], run: FlowRun, client: PrefectClient) -> None:
    logger = flow_run_logger(run, flow)
    try:
        parameters = validated(flow, run.parameters)
    except Exception as error:  # noqa: BLE001  (whatever a parameter raises, the flow cannot begin)
        logger.error("%s %s", INVALID, error)  # noqa: TRY400  (it says all, to whoever started it)
        state = await _failed(flow, error, INVALID)
    else:
        await _name(flow, run, client)
        await _call_hooks(flow.on_running_hooks, flow, run)
        logger.info("Beginning flow run %r for flow %r", run.name, flow.name)
        state = await _outcome(flow, run, parameters)
    leave_for_good()
    run.state = await propose(state, run)
    if run.state.is_completed():
        await _call_hooks(flow.on_completion_hooks, flow, run)
    if run.state.is_failed():
        await _call_hooks(flow.on_failure_hooks, flow, run)
    level = logging.INFO if run.state.is_completed() else logging.ERROR
    logger.log(level, "Finished in state %s", run.state)


async def _outcome(flow: Flow[..., Any], run: FlowRun, parameters: dict[str, Any]) -> State[Any]:
    try:
        result = await flow.fn(**parameters)
        return await return_value_to_state(result, result_store=await _result_store(flow))
    except OwnershipUnknownError:
        raise  # no failure of the flow's: it is given back, and goes on
    except Exception as error:  # noqa: BLE001  (whatever a flow raises is how it failed)
        flow_run_logger(run, flow).exception("Encountered exception during execution: %r", error)
        return await _failed(flow, error, RAISED)


async def _failed(flow: Flow[..., Any], error: Exception, message: str) -> State[Any]:
    store = await _result_store(flow)
    return await exception_to_failed_state(error, message=message, result_store=store)


async def _name(flow: Flow[..., Any], run: FlowRun, client: PrefectClient) -> None:
    if not flow.flow_run_name:
        return
    try:
        name = resolve_custom_flow_run_name(flow=flow, parameters=run.parameters)
    except Exception as error:  # noqa: BLE001  (whatever its parameters lack, the flow tells of)
        flow_run_logger(run, flow).warning("The run is not named (%s).", type(error).__name__)
        return
    if name != run.name:
        await client.set_flow_run_name(run.id, name)
        run.name = name


async def _context(flow: Flow[..., Any], run: FlowRun, client: PrefectClient) -> FlowRunContext:
    return FlowRunContext(
        flow=flow,
        flow_run=run,
        parameters=run.parameters,
        client=client,
        task_runner=flow.task_runner,
        result_store=await _result_store(flow),
        persist_result=False,
    )


async def _result_store(flow: Flow[..., Any]) -> ResultStore:
    # Made once for each flow: Prefect's API is asked where results belong.
    if flow not in _result_stores:
        _result_stores[flow] = await get_result_store().aupdate_for_flow(flow)
    return _result_stores[flow]


async def _call_hooks(
    hooks: list[FlowStateHook[..., Any]] | None, flow: Flow[..., Any], run: FlowRun
) -> None:
    state, logger = run.state or Running(), flow_run_logger(run, flow)
    for hook in hooks or []:
        name = getattr(hook, "__name__", type(hook).__name__)
        logger.info("Running hook %r in response to entering state %r", name, state.name)
        try:
            done = hook(flow, run, state)
            if asyncio.iscoroutine(done):
                await done
        except Exception:  # a hook looks on; it cannot fail the run
            logger.exception("An error was encountered while running hook %r", name)
        else:
            logger.info("Hook %r finished running successfully", name)
