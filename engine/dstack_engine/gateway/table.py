"""What is published, alive: services and their replicas, as the engine told them last.

The proxy looks services up here and lets each choose, hold and count. `control` applies what the
engine tells and sends the reports. One table in each gateway process; everything in it belongs to
the event loop's thread.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Collection

from dstack_engine.gateway.counts import Clock, Counts, Visit
from dstack_engine.gateway.holding import Holding, OnWait
from dstack_engine.gateway.probing import Prober
from dstack_engine.gateway.replicas import Replica, Replicas
from dstack_engine.records.publication import (
    Publication,
    PublishedReplica,
    PublishedService,
    ReplicaState,
    ServiceReport,
)

#: Length of the digests' beginning by which a token is named in metrics and reports.
TOKEN_NAME = 8
#: `Retry-After` for who waits in a gateway that ends, in seconds.
RESTART_RETRY_AFTER = 2


class Service:
    """One service: who answers for it, who waits, and how much it is asked."""

    def __init__(
        self,
        told: PublishedService,
        *,
        prober: Prober,
        on_urgent: Callable[[], None] = lambda: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.told = told
        self.replicas = Replicas()
        self.counts = Counts(clock)
        self.holding = Holding(told.run, self.replicas, on_first=on_urgent, clock=clock)
        self._prober = prober
        self._on_urgent = on_urgent
        self._clock = clock
        self._published: set[str] = set()
        self.apply(told)

    def arrive(self) -> Visit:
        """Count a request that is for this service; it is under way until its visit is closed."""
        return self.counts.arrive()

    def choose(self, avoid: Collection[Replica] = ()) -> Replica | None:
        """Return the ready replica with the fewest requests; see `Replicas.choose`."""
        return self.replicas.choose(avoid)

    async def hold(
        self,
        visit: Visit,
        *,
        avoid: Collection[Replica] = (),
        on_wait: OnWait | None = None,
    ) -> Replica:
        """Return a replica as soon as one is ready; see `Holding.hold`.

        The *visit* stays open: who waits is load. *on_wait* is called every five seconds with the
        seconds waited so far. Raises `NoReplica`.
        """
        return await self.holding.hold(avoid, on_wait)

    def apply(self, told: PublishedService) -> None:
        """Become what is told: replicas come, are drained, and go."""
        probes_differ = told.probes != self.told.probes
        self.told = told
        self._published = {each.job for each in told.replicas}
        for each in told.replicas:
            self._apply_replica(each, probes_differ)
        for replica in [r for job, r in self.replicas.items() if job not in self._published]:
            replica.drain()
            self._drop_if_done(replica)
        self.replicas.sort_out()
        if told.holds:
            self.holding.allow(told.trouble)
        else:
            self.holding.refuse(told.trouble or f"{told.run} is being stopped.")
        self.holding.release()

    def close(self) -> None:
        """End it: nobody waits any longer; what is being answered may be finished."""
        self.apply(
            PublishedService(
                self.told.run,
                self.told.run_id,
                holds=False,
                trouble=f"{self.told.run} has been stopped.",
            )
        )

    def report(self) -> ServiceReport:
        """Return the traffic as it stands."""
        counts, held = self.counts, self.holding.held
        p50, p95 = counts.percentiles()
        return ServiceReport(
            self.told.run,
            self.told.run_id,
            replicas=tuple(replica.report() for replica in self.replicas.values()),
            in_flight=max(counts.under_way - held, 0),
            held=held,
            loads=counts.loads(),
            rps=counts.rps(),
            p50=p50,
            p95=p95,
            requests=counts.requests,
            errors=counts.errors,
        )

    def _apply_replica(self, told: PublishedReplica, probes_differ: bool) -> None:
        replica = self.replicas.get(told.job)
        if replica is None or (replica.host, replica.port) != (told.host, told.port):
            if replica is not None:
                self._prober.forget(replica)
            replica = Replica(told, self._changed, self._clock)
            self.replicas[told.job] = replica
            probes_differ = True
        if told.draining:
            replica.drain()
            self._prober.forget(replica)
        elif probes_differ or replica.state is ReplicaState.DRAINING:
            replica.resume()
            self._prober.watch(replica, self.told.probes)

    def _changed(self, replica: Replica) -> None:
        """Act on a replica's change of state, or on the last answer of a draining one."""
        self.replicas.sort_out()
        self._drop_if_done(replica)
        if replica.state is ReplicaState.READY:
            self.holding.release()
        self._on_urgent()

    def _drop_if_done(self, replica: Replica) -> None:
        gone = replica.job not in self._published
        if gone and not replica.in_flight and self.replicas.get(replica.job) is replica:
            del self.replicas[replica.job]
            self._prober.forget(replica)


class Table:
    """All services that are published, and the tokens that are let through.

    *on_urgent* is called when a report should go out at once: a replica's state has changed, the
    first request is held, a draining replica has answered everything.
    """

    def __init__(
        self,
        *,
        prober: Prober | None = None,
        on_urgent: Callable[[], None] = lambda: None,
        clock: Clock = time.monotonic,
    ) -> None:
        #: By run name.
        self.services: dict[str, Service] = {}
        #: Of the newest publication applied; -1 before any.
        self.version = -1
        self.on_urgent = on_urgent
        self._prober = prober or Prober()
        self._clock = clock
        self._digests: tuple[bytes, ...] = ()
        self._by_model: dict[str, list[Service]] = {}

    def apply(self, publication: Publication, *, instead_of: int | None = None) -> None:
        """Become what *publication* says, unless something newer was said; needs a running loop.

        *instead_of* names the version that is served, to have it replaced by an older one: what an
        engine says whose clock was set back.
        """
        if publication.version < self.version and instead_of != self.version:
            return
        self.version = publication.version
        self._digests = tuple(token.lower().encode() for token in publication.tokens)
        told = {service.run: service for service in publication.services}
        for run in [run for run in self.services if run not in told]:
            self.services.pop(run).close()
        for service in told.values():
            self._apply_service(service)
        self._by_model = {}
        for each in self.services.values():
            if each.told.model is not None:
                self._by_model.setdefault(each.told.model.name, []).append(each)

    def knows(self, token: str) -> str | None:
        """Return the name of a token that is let through (8 hex digits of its digest), or None.

        Takes the same time for every wrong token, and for every right one.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest().encode()
        known = False
        for each in self._digests:
            known |= hmac.compare_digest(each, digest)
        return digest[:TOKEN_NAME].decode() if known else None

    def of_model(self, model: str) -> list[Service]:
        """Return the services that serve *model*; none for an unknown one."""
        return self._by_model.get(model, [])

    def models(self) -> list[str]:
        """Return the names of the models that are served, in order."""
        return sorted(self._by_model)

    def reports(self) -> tuple[ServiceReport, ...]:
        """Return every service's traffic."""
        return tuple(service.report() for service in self.services.values())

    def send_away(self) -> None:
        """Let nobody wait any longer: another gateway will know of replicas, this one will not."""
        for service in self.services.values():
            service.holding.refuse(
                "The gateway is being restarted; try again.", RESTART_RETRY_AFTER
            )

    async def close(self) -> None:
        """End the probing; for the end of the process, and of a test."""
        await self._prober.close()

    def _apply_service(self, told: PublishedService) -> None:
        service = self.services.get(told.run)
        if service is not None and service.told.run_id == told.run_id:
            service.apply(told)
            return
        if service is not None:
            service.close()
        self.services[told.run] = Service(
            told, prober=self._prober, on_urgent=self._urgent, clock=self._clock
        )

    def _urgent(self) -> None:
        self.on_urgent()
