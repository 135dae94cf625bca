"""Which blow falls in a round: drawn from the campaign's seed."""

from random import Random

from tests.chaos.blows import (
    Blow,
    ByHand,
    ClockStep,
    How,
    Kill,
    KillInWait,
    PoolPause,
    Side,
    Slow,
    SlowEndpoint,
    Suspension,
    Target,
)
from tests.chaos.moments import MOMENTS, WAITS, Phase
from tests.chaos.troubles import TROUBLES, Disturbance


def draw(chance: Random, trials: int, targets: tuple[Target, ...], longest: float = 10) -> Blow:
    """A blow for a round of so many trials, that lasts no longer than so many leases."""
    kind = chance.random()
    target = chance.choice(targets)
    leases = _leases(chance, longest)
    if kind < 0.15:
        return KillInWait(target, chance.choice(WAITS), leases=leases)
    if kind < 0.3:
        trouble = chance.choice(TROUBLES)
        anywhen: tuple[Phase, ...] = ("configure", "close")
        phase = "close" if trouble.moment else chance.choice(anywhen)
        nth = _nth(chance, trials, is_any=not trouble.moment)
        return Disturbance(trouble, phase, nth, leases=leases)
    if kind < 0.45:
        return _without_damage(chance)
    moment = chance.choice(MOMENTS)
    side: Side = chance.choice(("before", "after"))
    nth = _nth(chance, trials, is_any=moment.is_anything)
    return Kill(target, moment, side, nth, leases=leases)


def _without_damage(chance: Random) -> Blow:
    """What people do, or what takes its time, with nothing broken."""
    wait = chance.choice(WAITS)
    seconds = chance.uniform(8, 20)
    how: How = chance.choice(("deployment", "call"))
    # Twice as long as a worker takes between two looks for what others have left.
    both: tuple[tuple[SlowEndpoint, float], ...] = (
        ("token.refresh", 12.0),
        ("orders.prepareSnapshot", 20.0),
    )
    endpoint, slow = chance.choice(both)
    step = chance.choice((-3600.0, -90.0, 90.0, 3600.0))
    return chance.choice(
        (
            ByHand(how, wait, is_calm=True),
            Suspension(seconds, is_calm=True),
            PoolPause(seconds, wait, is_calm=True),
            ClockStep(step, wait, is_calm=True),
            Slow(endpoint, slow, is_calm=True, patience=40.0, access_token_seconds=300),
        )
    )


def _leases(chance: Random, longest: float) -> float:
    """Mostly one to three, seldom up to ten."""
    most = 3.0 if chance.random() < 0.8 else 10.0
    return chance.uniform(1.2, max(1.2, min(most, longest)))


def _nth(chance: Random, trials: int, *, is_any: bool) -> int:
    return chance.randint(1, 20 * trials if is_any else max(1, trials // 2))
