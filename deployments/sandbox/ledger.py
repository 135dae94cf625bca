"""What the sandbox remembers of the requests it received, and how it judges them."""

from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import islice
from typing import Literal, NamedTuple

from deployments.sandbox.overlaps import Overlaps
from deployments.sandbox.settings import Clock
from deployments.sandbox.shapes import BindingCloses, Close, Event, Plan, Verdict


class Binding(NamedTuple):
    """One tenant's batch."""

    tenant: str
    batch: str


class Asker(NamedTuple):
    """Whose work a request is for, and which process sent it, as far as it says so."""

    tenant: str | None
    batch: str | None
    process: str | None


class Snapshot(NamedTuple):
    """A prepared snapshot and the occurrence it was attributed to, if a plan tells."""

    snapshot_id: str
    binding: Binding
    taken_at: datetime
    occurrence: datetime | None


class Timetable(NamedTuple):
    """A binding's plan, ready to look moments up in."""

    occurrences: list[datetime]
    upstream_wait: timedelta
    replication_delay: timedelta

    def occurrence_at(self, moment: datetime) -> datetime | None:
        """The latest occurrence that has come by the moment."""
        passed = bisect_right(self.occurrences, moment)
        return self.occurrences[passed - 1] if passed else None


class Ledger:
    """Counts what took effect. It believes no client: only what arrived, and when."""

    def __init__(self, clock: Clock, events_kept: int) -> None:
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._timetables: dict[Binding, Timetable] = {}
        self._closes: defaultdict[Binding, list[Close]] = defaultdict(list)
        self._closed_occurrences: set[tuple[Binding, datetime | None]] = set()
        self._keys: dict[tuple[Binding, datetime, str], str] = {}
        self._events: deque[Event] = deque(maxlen=events_kept)
        self._last_event = 0
        self.overlaps = Overlaps()

    def plan(self, plan: Plan) -> None:
        """Learns when a binding's work is due; a later plan replaces an earlier one."""
        self._timetables[Binding(plan.tenant_id, plan.batch_id)] = Timetable(
            sorted(plan.occurrences),
            timedelta(seconds=plan.upstream_wait_seconds),
            timedelta(seconds=plan.replication_delay_seconds),
        )

    def count(self, what: Literal["configured", "refreshed", "reuse", "presented_twice"]) -> None:
        """Counts one thing that the OAuth server saw."""
        self._counts[what] += 1

    def night(self, binding: Binding) -> tuple[Binding, datetime] | None:
        """The binding's latest occurrence that has come, if a plan tells."""
        timetable = self._timetables.get(binding)
        occurrence = timetable.occurrence_at(self._clock()) if timetable else None
        return (binding, occurrence) if occurrence else None

    def key(self, binding: Binding, operation: str, key: str) -> None:
        """Judges whether all requests for an occurrence's operation carry the same key."""
        night = self.night(binding)
        if night and self._keys.setdefault((*night, operation), key) != key:
            self._counts["rekeyed"] += 1

    def snapshot(self, binding: Binding, snapshot_id: str) -> Snapshot:
        """Records a snapshot taken now and judges whether it came too early."""
        now = self._clock()
        timetable = self._timetables.get(binding)
        if timetable is None:
            return Snapshot(snapshot_id, binding, now, None)
        occurrence = timetable.occurrence_at(now)
        if occurrence is None or now < occurrence + timetable.upstream_wait:
            self._counts["early"] += 1
        return Snapshot(snapshot_id, binding, now, occurrence)

    def close(self, snapshot: Snapshot) -> Close:
        """Records a close that takes effect now and judges whether it is early or a double."""
        close = Close(
            closed_at=self._clock(),
            snapshot_id=snapshot.snapshot_id,
            occurrence=snapshot.occurrence,
        )
        self._counts["closed"] += 1
        self._closes[snapshot.binding].append(close)
        timetable = self._timetables.get(snapshot.binding)
        if timetable is not None:
            self._judge(close, snapshot, timetable)
        return close

    def _judge(self, close: Close, snapshot: Snapshot, timetable: Timetable) -> None:
        if close.closed_at < snapshot.taken_at + timetable.replication_delay:
            self._counts["early"] += 1
        occurrence = (snapshot.binding, snapshot.occurrence)
        if occurrence in self._closed_occurrences:
            self._counts["double_close"] += 1
        self._closed_occurrences.add(occurrence)

    def note(
        self,
        kind: str,
        asker: Asker,
        *,
        status: int | None,
        error: str | None = None,
        fault: str | None = None,
    ) -> None:
        """Notes how a request was answered; `status` None means that nothing was answered."""
        self._last_event += 1
        event = Event(
            number=self._last_event,
            at=self._clock(),
            kind=kind,
            tenant_id=asker.tenant,
            batch_id=asker.batch,
            status=status,
            error=error,
            fault=fault,
            process=asker.process,
        )
        self._events.append(event)

    def verdict(self) -> Verdict:
        """The counts so far."""
        return Verdict(**self._counts, overlapping=self.overlaps.count)

    def closes(self) -> list[BindingCloses]:
        """Every binding that has closed at least once, with its closes."""
        return [
            BindingCloses(tenant_id=binding.tenant, batch_id=binding.batch, closes=closes)
            for binding, closes in self._closes.items()
        ]

    def events(self, after: int = 0) -> list[Event]:
        """The remembered events with a number above `after`, oldest first."""
        wanted = max(0, min(self._last_event - after, len(self._events)))
        newest_first: Iterable[Event] = islice(reversed(self._events), wanted)
        return list(newest_first)[::-1]
