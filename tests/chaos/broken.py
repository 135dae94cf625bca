"""Builds that are broken on purpose: what each changes, and where that must come to light."""

import shutil
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PARTS = ("blocks", "flows", "deployments", "tests", "prefect.yaml", "pyproject.toml")


@dataclass(frozen=True)
class Change:
    """One piece of the code, as it is and as it would be wrong."""

    file: str
    good: str
    bad: str = ""


@dataclass(frozen=True)
class BrokenBuild:
    """A build that a campaign with these options must find out, by these words."""

    name: str
    changes: tuple[Change, ...]
    options: tuple[str, ...]
    words: str

    def copy(self, folder: Path) -> Path:
        """A copy of the project with the changes; raises ValueError where one does not fit."""
        for part in PARTS:
            copy = shutil.copytree if (PROJECT / part).is_dir() else shutil.copy
            copy(PROJECT / part, folder / part)
        for change in self.changes:
            file = folder / change.file
            text = file.read_text()
            if text.count(change.good) != 1:
                raise ValueError(f"{change.file} has changed: break it in another way")
            file.write_text(text.replace(change.good, change.bad))
        return folder


STORES_LATE = BrokenBuild(
    "stores rotated tokens after their use",
    (
        Change(
            "blocks/grant/refreshing.py",
            "        await found.overwrite(fresh)\n",
            "        asyncio.get_running_loop().call_later(\n"
            "            30, lambda: asyncio.ensure_future(found.overwrite(fresh))\n"
            "        )\n",
        ),
    ),
    (
        *("--trials", "8", "--only", "worker: in ReplicationDelay"),
        *("--access-token-seconds", "6", "--rotation", "strict"),
    ),
    "the grant is lost",
)
RANDOM_KEYS = BrokenBuild(
    "has random idempotency keys",
    (
        Change(
            "flows/daily_close.py",
            '_key(night, "prepareSnapshot")',
            '__import__("uuid").uuid4().hex',
        ),
    ),
    ("--trials", "4", "--only", "worker: after snapshot"),
    "rekeyed=",
)
SLEEPS = BrokenBuild(
    "sleeps instead of waiting",
    (Change("flows/waiting.py", "or left <= SLEPT_IN_PLACE", "or left <= 10 * SLEPT_IN_PLACE"),),
    ("--trials", "4", "--only", "worker: in ReplicationDelay"),
    "nobody was ever seen in ReplicationDelay",
)
TAKES_OVER_BY_NAME = BrokenBuild(
    "takes over what another worker of the same name is at",
    (
        Change(
            "deployments/recovery.py",
            "claim.process != process and await has_lease(client, claim.process)",
            'claim.worker != "worker-1"',
        ),
        # At each heartbeat, for a name tells of no departure.
        Change("deployments/recovery.py", "LOOK_SECONDS = 60.0", "LOOK_SECONDS = 1.0"),
    ),
    (
        *("--trials", "4", "--workers", "2", "--same-name"),
        *("--only", "20 seconds for each snapshot"),
    ),
    "overlapping=",
)
NOT_FENCED = BrokenBuild(
    "asks nobody on waking whether it was given up",
    (
        Change("blocks/http.py", "    await _require_ownership()\n"),
        Change(
            "blocks/ownership.py",
            "    await work.lease.require()\n    if work.run_id",
            "    return\n    if work.run_id",
        ),
        Change("blocks/http.py", "        await ownership.on_the_wire(event, about)\n"),
        Change(
            "blocks/ownership.py",
            "    if work := _work.get():\n        await work.lease.require()\n",
            "    return\n",
        ),
        Change("deployments/execution.py", "if execution.work.lease is under:", "if False:"),
    ),
    (
        *("--trials", "4", "--workers", "2", "--longest", "2"),
        *("--only", "worker, asleep: after exchange"),
    ),
    "by a process that had stood still and been given up",
)
BELIEVES_ITS_MEMORY = BrokenBuild(
    "believes the refresh token that it remembers",
    (
        # Any worker goes on after a wait, as it does after one that is long.
        Change("flows/waiting.py", "in_memory: bool = True", "in_memory: bool = False"),
        Change(
            "blocks/grant/keeping.py",
            "        await document.write(binding, grant)\n",
            "        await document.write(binding, grant)\n"
            '        seen = vars(document).setdefault("seen", {})\n'
            "        seen[binding] = await document.read(binding)\n",
        ),
        Change(
            "blocks/grant/refreshing.py",
            "        found = await document.read(binding)\n        if unless",
            '        seen = vars(document).setdefault("seen", {})\n'
            "        found = seen.setdefault(binding, await document.read(binding))\n"
            "        if unless",
        ),
        Change(
            "blocks/grant/refreshing.py",
            "        await found.overwrite(fresh)\n",
            "        await found.overwrite(fresh)\n"
            '        vars(document)["seen"][found.binding] = document.Document(\n'
            "            found.binding, found.id, fresh\n"
            "        )\n",
        ),
    ),
    (
        # Its refreshes take two seconds each, so that the workers share them in turn.
        *("--trials", "10", "--workers", "2", "--limit", "2", "--only", "suspended and resumed"),
        *("--access-token-seconds", "6", "--rotation", "grace"),
    ),
    "presented_twice=",
)
DEAD_AFTER_OUTAGE = BrokenBuild(
    "takes others for dead after an outage of Prefect",
    (
        Change("blocks/liveness.py", "and gap <= process.seconds / 3"),
        # Who was given up so would store its rotated token all the same, and nothing were lost.
        Change(
            "blocks/grant/refreshing.py",
            "if stored.grant.refresh_token == found.grant.refresh_token:",
            "if False:",
        ),
        Change(
            "blocks/liveness.py",
            "since if is_watched else answered_at",
            # As if a renewal just before the outage were as old as the look before it.
            "since if is_watched else asked_at - gap"
            " if seen and process.renewals - seen.renewals < 2 else answered_at",
        ),
    ),
    (
        *("--trials", "8", "--seed", "4", "--workers", "2", "--limit", "4"),
        *("--only", "Prefect: away for leases as a token is stored", "--rotation", "strict"),
    ),
    "the grant is lost",
)
FORGETS_REPLACED = BrokenBuild(
    "forgets which grant a new one has replaced",
    (Change("blocks/grant/keeping.py", "revoke=revoke_replaced)", "revoke=False)"),),
    ("--trials", "4", "--only", "worker: in ReplicationDelay", "--again"),
    "of its grants live on",
)
KEEPS_TOKENS = BrokenBuild(
    "keeps callers' tokens",
    (
        Change("blocks/caller_token.py", "return await discard(name)", "return"),
        Change("deployments/unneeded_tokens.py", "await secret_blocks.delete(it.id)", "pass"),
    ),
    ("--trials", "2", "--only", "worker: after exchange"),
    "holds a caller's token",
)
BUILDS = (
    FORGETS_REPLACED,
    KEEPS_TOKENS,
    STORES_LATE,
    RANDOM_KEYS,
    SLEEPS,
    TAKES_OVER_BY_NAME,
    NOT_FENCED,
    BELIEVES_ITS_MEMORY,
    DEAD_AFTER_OUTAGE,
)
