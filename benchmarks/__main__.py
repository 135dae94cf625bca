"""A thousand tenants at 23:00: `make bench`, or `make bench N=1000 DB=postgres`.

Every tenant's schedule fires at the same moment. The sandbox, which plays the OAuth server and the
Orders API, judges what arrived. The exit status is 0 only if nothing was lost and nothing doubled.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.beside import pair
from benchmarks.installation import Database
from benchmarks.outcome import Outcome, Stampede
from benchmarks.report import RESULTS, calls_table, is_refused, per_close, save, save_calls, table
from benchmarks.stampede import play
from benchmarks.ways import BatchClose, UsualWay

SIZES: list[tuple[int, Database]] = [(20, "sqlite"), (200, "postgres"), (1000, "postgres")]
FEW = 20
"""Tenants of the runs that count calls, and of the usual way, which does not bear many more."""


def main() -> int:
    """Run what was asked for; returns the exit status."""
    options = _parser().parse_args()
    # Each in a process of its own: what Prefect keeps for one server must not meet the next.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        outcomes = [
            _tell(processes.submit(play, stampede, keep=options.keep).result(), options.beside)
            for stampede in _stampedes(options)
        ]
    measured = [it for it in outcomes if not it.stampede.is_disturbed]
    if measured:
        _say(f"\n{table(measured)}\n")
        _compare(measured)
    for outcome in outcomes:
        _tell_calls(outcome, each=options.calls)
    bad = [it for it in outcomes if is_refused(it)]
    _say(f"bench: runs={len(outcomes)} refused={len(bad)} exit={'failed' if bad else 'ok'}")
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--tenants", type=int, help="instead of 20, 200 and 1000")
    parser.add_argument("--db", choices=["sqlite", "postgres"], default="postgres")
    parser.add_argument("--rotation", choices=["strict", "grace"], default="strict")
    parser.add_argument("--usual-way", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--usual-tenants", type=int, default=FEW)
    parser.add_argument("--usual-db", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--kill", type=int, nargs="?", const=1, default=0, choices=[1, 2])
    parser.add_argument("--calls", action="store_true", help="only count the API's calls")
    parser.add_argument("--profile", action="store_true", help="only find where the time goes")
    parser.add_argument("--beside", type=Path, help="another checkout, measured in turn with this")
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    return parser


def _stampedes(options: argparse.Namespace) -> list[Stampede]:
    way = BatchClose()
    if options.calls:
        return [Stampede(options.tenants or FEW, way, options.db, count_calls=True)]
    if options.profile:
        tenants = options.tenants or FEW
        target = RESULTS / f"profile-{tenants}-{options.db}.txt"
        return [Stampede(tenants, way, options.db, profile=target)]
    sizes = [(options.tenants, options.db)] if options.tenants else SIZES
    wanted = [
        Stampede(tenants, way, database, options.rotation, options.kill)
        for tenants, database in sizes
    ]
    if options.usual_way and not options.kill:
        # Right after the fewest: a machine's speed may change within minutes.
        wanted.insert(1, Stampede(options.usual_tenants, UsualWay(), options.usual_db))
        wanted.append(Stampede(FEW, way, options.db, count_calls=True))
    return wanted


def _tell(outcome: Outcome, beside: Path | None) -> Outcome:
    faults = outcome.judgement.faults or "nothing lost, nothing doubled"
    _say(f"{outcome.stampede}:")
    _say(f"  {outcome.judgement.closed_once} closed in {outcome.seconds:.0f} s, {faults}")
    if not outcome.stampede.is_disturbed and not is_refused(outcome):
        _say(f"  results/{save(outcome).name}")
        if beside and outcome.stampede.way.is_ours:
            _say(f"  {pair(outcome, beside.resolve())}")
    return outcome


def _tell_calls(outcome: Outcome, *, each: bool) -> None:
    if outcome.calls is None:
        return
    _say(f"results/{save_calls(outcome.stampede, outcome.calls).name}")
    if each:
        _say(f"\n{calls_table(outcome.calls, outcome.stampede.tenants)}\n")
    for what, counts in vars(outcome.calls).items():
        _say(f"{what} per close: {sum(counts.values()) / outcome.stampede.tenants:.1f}")


def _compare(outcomes: Sequence[Outcome]) -> None:
    """How many times less a close costs here than in the usual way."""
    usual = [it for it in outcomes if not it.stampede.way.is_ours and it.judgement.closed_once]
    ours = [it for it in outcomes if it.stampede.way.is_ours and not is_refused(it)]
    for one in ours:
        for other in usual:
            ratio = per_close(other)["total"] / per_close(one)["total"]
            _say(f"{one.stampede}: {ratio:.0f} times less CPU than {other.stampede}")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
