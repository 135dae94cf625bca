"""What a stampede is, and what comes of it."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.calls import Calls
from benchmarks.installation import Database
from benchmarks.judge import Judgement
from benchmarks.memory import Memory
from benchmarks.set_up import SetUp
from benchmarks.ways import Way
from deployments.sandbox.settings import Rotation


@dataclass(frozen=True)
class Stampede:
    """What to run.

    Attributes:
        tenants: How many fall due at the same moment.
        way: How the job is done.
        database: Prefect's.
        rotation: How the OAuth server treats a refresh token that was used.
        kills: How often the worker is killed: in the middle of the refreshes, and of the closes.
        count_calls: Count the Prefect API's calls. It costs something: no figures then.
        profile: Where to write where the time goes. It costs something, too.
    """

    tenants: int
    way: Way
    database: Database
    rotation: Rotation = "strict"
    kills: int = 0
    count_calls: bool = False
    profile: Path | None = None

    def __str__(self) -> str:
        killed = f", killed {self.kills} times" if self.kills else ""
        return f"{self.way.name}, {self.tenants} tenants, {self.database}{killed}"

    @property
    def is_disturbed(self) -> bool:
        """Whether it is watched so closely that its own figures mean nothing."""
        return self.count_calls or self.profile is not None


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        stampede: What was run.
        judgement: The sandbox's counts and the lags.
        set_up: How long setting the tenants up took.
        cpu: CPU seconds of each part, from just before the moment until all was settled.
        idle: CPU seconds that each part uses in a second in which nothing is due.
        elsewhere: CPU seconds that the machine spent meanwhile on anything else: the sandbox, this
            program, and whatever else was running there.
        seconds: How long it took until all was settled.
        settled: Whether every run came to a final state.
        memory: What it held.
        calls: The Prefect API's calls, if they were counted.
    """

    stampede: Stampede
    judgement: Judgement
    set_up: SetUp
    cpu: dict[str, float]
    idle: dict[str, float]
    elsewhere: float
    seconds: float
    settled: bool
    memory: Memory
    calls: Calls | None
