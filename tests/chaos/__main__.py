"""Break everything, see what is left: `make chaos N=200 SEED=7`.

A real Prefect server, real workers and the sandbox, as processes. Each round configures some
tenants for the same moment, lets half of them meet an outside system that misbehaves, and ends a
part of the installation at a drawn moment. The sandbox judges. The last line is for machines; the
exit status is 0 only if nothing was lost, doubled or stuck.
"""

import argparse
import asyncio
import shutil
import tempfile
from pathlib import Path

from tests.chaos.arena import LEASE
from tests.chaos.campaign import Campaign
from tests.chaos.table import table


def main() -> int:
    """Run a campaign; returns the exit status."""
    options = _parser().parse_args()
    campaign = Campaign(
        options.trials,
        options.seed,
        options.workers,
        options.only,
        options.rotation,
        options.access_token_seconds,
        options.same_name,
        options.lease,
        options.longest,
        options.limit,
        options.again,
    )
    home = Path(tempfile.mkdtemp(prefix="daily-orders-chaos-"))
    try:
        on_postgres = options.db == "postgres"
        asyncio.run(campaign.fight(home, on_postgres=on_postgres))
    finally:
        if options.keep:
            print(f"kept: {home}")  # noqa: T201
        else:
            shutil.rmtree(home, ignore_errors=True)
    print(f"\n{table(campaign.findings)}")  # noqa: T201
    print("* a token that was rotated, and not yet stored, when its worker was killed\n")  # noqa: T201
    for wrong in campaign.wrong:
        print(f"WRONG {wrong}")  # noqa: T201
    good = not campaign.wrong and len(campaign.findings) == options.trials
    counted = f"trials={len(campaign.findings)} seed={options.seed} wrong={len(campaign.wrong)}"
    print(f"chaos: {counted} exit={'ok' if good else 'failed'}")  # noqa: T201
    return 0 if good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit", type=int, help="runs that a worker executes at a time")
    parser.add_argument("--same-name", action="store_true", help="all workers are called alike")
    parser.add_argument("--db", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--lease", type=float, default=LEASE, help="in seconds; 60 in production")
    parser.add_argument("--longest", type=float, default=10, help="outage or freeze, in leases")
    parser.add_argument("--only", metavar="BLOW", help="'worker: before snapshot', for instance")
    parser.add_argument("--again", action="store_true", help="all are configured once more")
    parser.add_argument("--rotation", choices=["strict", "grace"], help="instead of either")
    parser.add_argument("--access-token-seconds", type=int, help="instead of 6 or 300")
    parser.add_argument("--keep", action="store_true", help="keep the logs and the database")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
