"""The replicas of a service, and the choice among them.

The proxy asks `Replicas.choose` for each request and tells each replica when it begins and ends
one. `probing` finds out whether a replica answers. What the proxy meets counts as well: three
failures in a row, or one refused connection, and the replica gets nothing more until a probe has
found it well again, sooner after its first failure than after its fifth.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterable

from dstack_engine.gateway.counts import Clock
from dstack_engine.records.publication import PublishedReplica, ReplicaReport, ReplicaState

#: Failures in a row, seen by requests, after which a replica gets nothing more for a while.
FAILURES = 3
#: How long that while is, in seconds: at first, and at most; it doubles with each ejection.
FIRST_REST = 1.0
LONGEST_REST = 30.0
#: A replica that was well for so long (s) is forgiven its earlier ejections.
FORGIVEN_AFTER = 60.0


class Replica:
    """One place that answers requests of a service."""

    def __init__(
        self,
        told: PublishedReplica,
        on_change: Callable[[Replica], None] = lambda replica: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.job = told.job
        self.host = told.host
        self.port = told.port
        #: Where it is asked: ``http://127.0.0.1:8000``.
        self.base = f"http://{told.host}:{told.port}"
        self.state = ReplicaState.PROBING
        #: Requests that it is answering, and those held that were just given to it.
        self.in_flight = 0
        self.requests = 0
        self.errors = 0
        #: Why it is not ready.
        self.trouble: str | None = None
        #: Whether something took a connection there when it was last tried.
        self.reachable = False
        #: Set when the prober should look at once.
        self.suspect = asyncio.Event()
        self._on_change = on_change
        self._clock = clock
        self._row = 0
        self._ejections = 0
        self._since = clock()

    def begin(self) -> None:
        """Note that it is given a request."""
        self.in_flight += 1

    def end(self, *, failed: bool, refused: bool = False, why: str | None = None) -> None:
        """Note that it has answered, or failed to.

        *failed*: it could not be connected to, cut its answer, or said 502, 503 or 504. *refused*:
        nothing listens there, which needs no second opinion. *why* is told in reports.
        """
        self.in_flight -= 1
        self.requests += 1
        if failed or refused:
            self._failed(refused, why)
        else:
            self._row = 0
        if not self.in_flight and self.state is ReplicaState.DRAINING:
            self._on_change(self)

    def ready(self) -> None:
        """Note that the probes find it well."""
        self.reachable = True
        self._row = 0
        if self.state in (ReplicaState.PROBING, ReplicaState.EJECTED):
            self.trouble = None
            self._become(ReplicaState.READY)

    def failing(self, why: str, *, reachable: bool) -> None:
        """Note that the probes find it unwell; *reachable*: it does take connections."""
        self.reachable = reachable
        self.trouble = why
        if self.state is ReplicaState.READY:
            self._eject()

    def drain(self) -> None:
        """Give it nothing new from now on."""
        if self.state is not ReplicaState.DRAINING:
            self._become(ReplicaState.DRAINING)

    def resume(self) -> None:
        """Take back `drain`: it is probed as a new one is."""
        if self.state is ReplicaState.DRAINING:
            self._become(ReplicaState.PROBING)

    @property
    def rest(self) -> float:
        """Return how long (s) it is left alone after its last ejection: twice as long each time."""
        return float(min(FIRST_REST * 2 ** max(self._ejections - 1, 0), LONGEST_REST))

    def report(self) -> ReplicaReport:
        """Return how it is seen."""
        return ReplicaReport(
            self.job, self.state, self.in_flight, self.requests, self.errors, self.trouble
        )

    def _failed(self, refused: bool, why: str | None) -> None:
        self.errors += 1
        self._row += 1
        self.suspect.set()
        if refused:
            self.reachable = False
        if self.state is not ReplicaState.READY:
            return
        if refused or self._row >= FAILURES:
            kind = "connection refused" if refused else f"{self._row} requests in a row failed"
            self.trouble = why or kind
            self._eject()

    def _eject(self) -> None:
        if self._clock() - self._since > FORGIVEN_AFTER:
            self._ejections = 0
        self._ejections += 1
        self._become(ReplicaState.EJECTED)

    def _become(self, state: ReplicaState) -> None:
        self.state = state
        self._since = self._clock()
        self._on_change(self)

    def __repr__(self) -> str:
        return f"<Replica {self.job} {self.base} {self.state} in flight {self.in_flight}>"


class Replicas(dict[str, Replica]):
    """A service's replicas by job, with those that are ready at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: list[Replica] = []

    def sort_out(self) -> None:
        """Find the ready ones anew; called when a state has changed."""
        self.ready = [each for each in self.values() if each.state is ReplicaState.READY]

    def choose(self, avoid: Collection[Replica] = ()) -> Replica | None:
        """Return the ready replica with the fewest requests, by lot among equals; None without.

        Where none is ready but some were, and still take connections, the least busy of these is
        the last resort: a replica that fails often is better than a refusal that fails always. One
        that takes no connections is never chosen; who asks is held until its successor comes.
        """
        ready = self.ready
        if len(ready) == 1 and not avoid:
            return ready[0]
        if ready:
            chosen = _least_busy(ready, avoid)
            if chosen is not None:
                return chosen
        return self._last_resort(avoid)

    def _last_resort(self, avoid: Collection[Replica]) -> Replica | None:
        ejected = [e for e in self.values() if e.state is ReplicaState.EJECTED and e.reachable]
        return _least_busy(ejected, avoid)


def _least_busy(replicas: Iterable[Replica], avoid: Collection[Replica]) -> Replica | None:
    least, chosen, equals = -1, None, 0
    for replica in replicas:
        if avoid and replica in avoid:
            continue
        busy = replica.in_flight
        if chosen is None or busy < least:
            least, chosen, equals = busy, replica, 1
        elif busy == least:
            equals += 1
            if random.random() * equals < 1:
                chosen = replica
    return chosen
