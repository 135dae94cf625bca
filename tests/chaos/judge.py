"""What became of a trial, by what the sandbox received and what is recorded for people."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun

from blocks import context, deployment
from blocks import grant as grants
from blocks.context import LastBatch
from blocks.grant import GrantMissingError
from deployments import journeys
from deployments.journey import JourneyError
from deployments.sandbox.client import SandboxClient
from deployments.sandbox.shapes import Event
from tests.chaos.hardships import Ending
from tests.chaos.trials import REPLICATION_DELAY, UPSTREAM_WAIT, Trial

MAYBE_CLOSED = ("its answer was lost", "may have been sent")
SOMEBODY_ELSES = "close: closed by somebody else"
NOT_YET_STORED = timedelta(seconds=3)
"""Between the server's rotation and the end of our write, on a busy machine."""

SLOW = timedelta(seconds=6)
"""The server's rotation comes so long before its answer, where that is slow on purpose."""


@dataclass
class Finding:
    """How one trial ended, and all that is wrong with it."""

    trial: Trial
    ending: Ending | None = None
    in_flight: bool = False
    """Whether a worker was killed, or stood still, with what a refresh had just given it."""
    lost_in_flight: bool = False
    late: timedelta = timedelta(0)
    wrong: list[str] = field(default_factory=list)


class Judge:
    """Judges the trials of one round, when they have settled."""

    def __init__(self, sandbox: SandboxClient, kills: Sequence[datetime]) -> None:
        self._sandbox = sandbox
        self._kills = kills

    async def judge(self, trial: Trial) -> Finding:
        """What became of the trial."""
        finding = Finding(trial, in_flight=self._was_in_flight(trial))
        assert trial.journey_id
        journey = await journeys.status(trial.journey_id)
        if journey.phase == "Running":
            finding.wrong.append(f"its configuration is stuck in {journey.current_state}")
        elif journey.phase == "Failed":
            finding.ending = "REFUSED"
            await self._judge_refused(finding)
        else:
            await self._judge_night(finding)
        if finding.ending == "REFUSED" and "REFUSED" not in trial.endings:
            finding.wrong.append(f"refused: {await _why(trial)}")
        if finding.ending not in trial.endings and not finding.wrong:
            self._judge_surprise(finding, await context.load(trial.binding))
        return finding

    async def _judge_refused(self, finding: Finding) -> None:
        """Nothing half-made is left that would run at night."""
        binding = finding.trial.binding
        if await deployment.find(binding):
            finding.wrong.append("a deployment is left of a configuration that failed")
        if await _has_grant(finding.trial):
            finding.wrong.append("a grant is left of a configuration that failed")

    async def _judge_night(self, finding: Finding) -> None:
        trial, wrong = finding.trial, finding.wrong
        runs = await runs_of(trial)
        wrong += [f"a run is left {run.state_name}" for run in runs if not is_final(run)]
        outcome = (await context.load(trial.binding)).last_batch
        if outcome is None or outcome.occurrence != trial.first_run_at:
            wrong.append("its night is not recorded")
            return
        finding.ending = outcome.status
        self._judge_closes(finding, outcome)
        if outcome.status != "CLOSED" and not outcome.reason:
            wrong.append("no reason is recorded")
        if outcome.status == "CLOSED" and await _has_grant(trial):
            wrong.append("the grant was not forgotten after the last night")
        if outcome.status == "CLOSED":
            self.judge_grants(finding)

    def _judge_closes(self, finding: Finding, outcome: LastBatch) -> None:
        trial = finding.trial
        closes = self._sandbox.closes(trial.binding.tenant_id, trial.binding.batch_id)
        doubtful = any(doubt in (outcome.reason or "") for doubt in MAYBE_CLOSED)
        wanted = {0, 1} if doubtful else {int(outcome.ok)}
        if trial.fault and trial.fault.name == SOMEBODY_ELSES:
            # Whoever goes on after a crash cannot tell: it may have been the close that was sent.
            wanted = {0}
        if len(closes) not in wanted:
            finding.wrong.append(f"recorded as {outcome.status}, but closed {len(closes)} times")
        if closes and trial.first_run_at:
            due = trial.first_run_at + UPSTREAM_WAIT + REPLICATION_DELAY
            finding.late = closes[0].closed_at - due

    def judge_grants(self, finding: Finding) -> None:
        """No grant lives on at the OAuth server, neither the last one nor any that it replaced.

        Except as many as were given in vain: whose answer was lost, or whose worker died with it.
        Such a journey exchanges once more, unless it finds itself superseded when it goes on.
        """
        trial = finding.trial
        given = [event for event in self._events_of(trial, "token.exchange") if _has_given(event)]
        in_flight = sum(self._is_struck(event) for event in given)
        live = self._sandbox.live_grants(trial.binding.tenant_id)
        if live > max(in_flight, len(given) - trial.journeys):
            told = [f"{event.kind} at {event.at:%H:%M:%S.%f}" for event in self._tokens_of(trial)]
            struck = [f"struck at {kill:%H:%M:%S.%f}" for kill in self._kills]
            finding.wrong.append(
                f"{live} of its grants live on, which nobody needs ({', '.join(told + struck)})"
            )

    def _judge_surprise(self, finding: Finding, recorded: context.Context) -> None:
        """A grant may be lost with a worker that is killed before it could store what rotated.

        And whoever goes on after a kill cannot tell whose a close was that the API only says to be.
        """
        fault = finding.trial.fault
        if fault and fault.name == SOMEBODY_ELSES and finding.ending == "CLOSED" and self._kills:
            return
        outcome = recorded.last_batch
        reason = (outcome.reason if outcome else None) or "no reason"
        wanted = finding.in_flight and finding.trial.rotation == "strict"
        if finding.ending == "FAILED" and "grant is lost" in reason and wanted:
            finding.lost_in_flight = True
        else:
            finding.wrong.append(f"ended {finding.ending}: {reason}")

    def _was_in_flight(self, trial: Trial) -> bool:
        return any(self._is_struck(event) for event in self._events_of(trial, "token.refresh"))

    def _is_struck(self, event: Event) -> bool:
        """Whether a blow fell between what the OAuth server gave and the end of its storing."""
        given = event.at - SLOW if event.fault == "slow" else event.at
        return any(
            given - timedelta(seconds=1) < kill < event.at + NOT_YET_STORED for kill in self._kills
        )

    def _tokens_of(self, trial: Trial) -> list[Event]:
        mine = trial.binding.tenant_id
        return [
            event
            for event in self._sandbox.events()
            if event.tenant_id == mine
            and event.kind in {"token.exchange", "token.refresh", "revoke"}
        ]

    def _events_of(self, trial: Trial, kind: str) -> list[Event]:
        return [event for event in self._tokens_of(trial) if event.kind == kind]


def _has_given(event: Event) -> bool:
    return event.status in {200, None}


async def runs_of(trial: Trial) -> list[FlowRun]:
    """The runs of the trial's own deployment."""
    found = await deployment.find(trial.binding)
    if found is None:
        return []
    mine = DeploymentFilter(id=DeploymentFilterId(any_=[found.id]))
    async with get_client() as client:
        return await client.read_flow_runs(deployment_filter=mine)


def is_final(run: FlowRun) -> bool:
    """Whether the run has ended for good."""
    return bool(run.state and run.state.is_final())


async def _why(trial: Trial) -> str:
    assert trial.journey_id
    try:
        await journeys.result(trial.journey_id)
    except JourneyError as error:
        return str(error)
    return "it was not"


async def _has_grant(trial: Trial) -> bool:
    try:
        await grants.load(trial.binding)
    except GrantMissingError:
        return False
    return True
