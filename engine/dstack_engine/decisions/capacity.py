"""Whether a job gets a place now, what it holds there, or what it waits for. Pure.

The job loop calls `place` for every submitted job, with all jobs that hold places and all that
wait. Every machine has a ledger: this computer is shared by its jobs (`ledgers`), a machine of a
fleet belongs to one job or is split into blocks (`blocks`), all else is rented for one job. The
nodes of one run get machines of one fleet, all at once (`clusters`).

First come, first served within a priority: the queue is gone through in order, each waiting job
ahead of ours takes in thought what fits it, and what it still lacks is kept for it. So a job is
never overtaken for a GPU by a later one that asks for a GPU, too; a later one that asks for none
need not wait for it. Before everybody come the nodes of a run of which others have a place: their
machines stand idle for them. For a machine that does not answer nothing else is kept waiting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from dstack_engine.decisions.blocks import BLOCKS, SplitMachine, standing
from dstack_engine.decisions.clusters import (
    ClusterKey,
    Together,
    group,
    group_of,
    key_of,
    placed_nodes,
)
from dstack_engine.decisions.ledgers import (
    GONE,
    Computer,
    Holder,
    Ledger,
    Rented,
    container_ports,
)
from dstack_engine.decisions.ownership import Site, name_of, nodes_of, site_of
from dstack_engine.decisions.requirements import reasons_against, serving
from dstack_engine.records.jobs import Job, JobStatus, Reservation
from dstack_engine.records.offers import HostKind, Offer
from dstack_engine.spec.configurations import RunConfiguration, ServiceConfiguration


@dataclass(frozen=True)
class Placed:
    """A place: the offer, and what the job holds there."""

    offer: Offer
    reservation: Reservation


@dataclass(frozen=True)
class Wait:
    """Not yet, and what the job waits for."""

    reason: str


@dataclass(frozen=True)
class NoPlace:
    """No place, and none will come: why each offer is out."""

    reason: str


@dataclass(frozen=True)
class Queued:
    """A job that waits for a place: what its run asks, and the offers that its user agreed to."""

    job: Job
    wanted: RunConfiguration
    offers: tuple[Offer, ...]


def place(
    job: Job,
    wanted: RunConfiguration,
    offers: Sequence[Offer],
    jobs: Iterable[Job],
    *,
    max_jobs: int,
    queue: Iterable[Queued] = (),
) -> Placed | Wait | NoPlace:
    """Return where *job* runs and what it holds, why it waits, or why there is no place at all.

    *offers* are those that may be used, the best first, as their backends state them now; those
    that the job has tried already are passed over. A machine of ours that is not available now
    (it, or its Docker Engine, does not answer) is waited for, unless the next one has room. *jobs*
    are all that are not finished; *queue* is everything that waits, this job perhaps among it.
    *max_jobs* run on this computer at once. Routes and image are left to the caller.
    """
    ours = Queued(job, wanted, tuple(offers))
    ground = _Ground(jobs, max_jobs)
    turn = ground.turn(ours)
    for other in sorted(queue, key=ground.turn):
        if other.job.id != job.id and ground.turn(other) < turn:
            ground.serve(other)
    return ground.find_place(ours)


def as_they_stand(offers: Iterable[Offer], jobs: Iterable[Job]) -> list[Offer]:
    """Return *offers*, those of fleets as idle or busy as *jobs*, all unfinished, leave them."""
    ground = _Ground(jobs, max_jobs=0)
    return [
        replace(offer, availability=standing(offer, ground.ledger(offer).holders))
        if site_of(offer) is Site.FLEET
        else offer
        for offer in offers
    ]


@dataclass
class _Ground:
    """All machines as their jobs share them, while one decision is made."""

    jobs: Iterable[Job]
    max_jobs: int
    #: What nodes of each attempt hold already, and what others ahead take in thought.
    nodes: dict[ClusterKey, list[Offer]] = field(init=False)
    _ledgers: dict[str, Ledger] = field(default_factory=dict)
    #: The attempts of which a node has a place in truth.
    _begun: frozenset[ClusterKey] = field(init=False)

    def __post_init__(self) -> None:
        jobs = [job for job in self.jobs if job.status is not JobStatus.SUBMITTED]
        self.nodes = placed_nodes(jobs)
        self._begun = frozenset(self.nodes)
        for job in jobs:
            if job.offer is not None and not job.finished:
                several = len(self.nodes[key_of(job)]) > 1
                held = job.reservation or Reservation()
                ports = _own_ports(job, in_machines_network=several)
                self.ledger(job.offer).holders.append(Holder(job.run_name, held, job.offer, ports))

    def ledger(self, offer: Offer) -> Ledger:
        """Return the machine's ledger; one of its own for what would be rented."""
        site = site_of(offer)
        key = "local" if site is Site.HERE else name_of(offer)
        if site is Site.RENTED and offer.instance is None:
            return Rented()
        if key not in self._ledgers:
            here = site is Site.HERE
            self._ledgers[key] = Computer(self.max_jobs) if here else SplitMachine()
        return self._ledgers[key]

    def turn(self, queued: Queued) -> tuple[bool, int, datetime, str]:
        """Return the key that sorts the queue.

        First the nodes whose siblings have a place, then the highest priority, then who came first.
        """
        job, alone = queued.job, nodes_of(queued.wanted) == 1
        waits_alone = alone or key_of(job) not in self._begun
        return waits_alone, -(queued.wanted.priority or 0), job.submitted_at, job.id

    def serve(self, queued: Queued) -> None:
        """Give a job ahead of ours what fits it, or keep for it what it lacks.

        The first node of several takes for all of them.
        """
        queued = self._without_kept(queued)
        found = self._find(queued)
        if isinstance(found, list):
            for offer in found:
                self._hold(queued, offer)
        elif isinstance(found, Wait) and not self._waits_for_first_node(queued):
            self._keep(queued)

    def _without_kept(self, queued: Queued) -> Queued:
        """Return the job without those machines that somebody ahead of it waits for already.

        It cannot have them, and nobody behind it can either.
        """
        if nodes_of(queued.wanted) > 1:  # these wait for all machines of a fleet together
            return queued
        left = tuple(one for one in queued.offers if BLOCKS not in self.ledger(one).kept)
        return replace(queued, offers=left)

    def find_place(self, queued: Queued) -> Placed | Wait | NoPlace:
        """Return the first offer that has room, or why there is none."""
        found = self._find(queued)
        if not isinstance(found, list):
            return found
        offer = found[0]
        return Placed(offer, self.ledger(offer).reserve(queued.wanted, offer))

    def _find(self, queued: Queued) -> list[Offer] | Wait | NoPlace:
        """Return the offer to take, or one for each node where none of them has a place yet."""
        possible = _possible(queued)
        if not possible:
            return NoPlace(_no_place(queued))
        if nodes_of(queued.wanted) == 1:
            return self._first_with_room(queued, self._spread(queued, possible))
        if key_of(queued.job) in self._begun:
            return self._beside(queued, possible)
        if self._waits_for_first_node(queued):
            return Wait("waits for node 0: all nodes are placed at once")
        return self._together(queued, possible)

    def _first_with_room(self, queued: Queued, offers: Sequence[Offer]) -> list[Offer] | Wait:
        waits = ""
        for offer in offers:
            lacks = self.ledger(offer).lacks(queued.wanted, offer)
            if not lacks:
                return [offer]
            waits = waits or "; ".join(lack.why for lack in lacks)
        others = len({_machine(offer) for offer in offers}) - 1
        if others:
            waits += f"; or for {'another machine' if others == 1 else f'{others} others'}"
        return Wait(waits)

    def _spread(self, queued: Queued, offers: list[Offer]) -> list[Offer]:
        """Return *offers* with those machines of fleets first that have fewest of its replicas.

        Whatever else there is keeps its turn.
        """
        if not isinstance(queued.wanted, ServiceConfiguration):
            return offers
        counts: Counter[str] = Counter()
        for offer in offers:
            names = [holder.name for holder in self.ledger(offer).holders]
            counts[_machine(offer)] = names.count(queued.job.run_name)
        fleet = [offer for offer in offers if site_of(offer) is Site.FLEET]
        turns = iter(sorted(fleet, key=lambda offer: counts[_machine(offer)]))
        return [next(turns) if site_of(offer) is Site.FLEET else offer for offer in offers]

    def _beside(self, queued: Queued, possible: list[Offer]) -> list[Offer] | Wait | NoPlace:
        """Return another machine of the fleet where the run's other nodes are."""
        placed = self.nodes[key_of(queued.job)]
        where, taken = group_of(placed[0]), {one.instance for one in placed if one.instance}
        left = [o for o in possible if group_of(o) == where and o.instance not in taken]
        if not left:
            node = queued.job.node
            return NoPlace(f"fleet {where} has no other machine for node {node} that fits")
        return self._first_with_room(queued, left)

    def _together(self, queued: Queued, possible: list[Offer]) -> list[Offer] | Wait | NoPlace:
        """Return a machine for each node in the first fleet that has room for all of them."""
        waits, never = None, []
        for one in self._groups(queued, possible):
            if not one.can_ever:
                never.append(one.too_few)
            elif (places := one.places) is not None:
                return places
            else:
                full = [offer for offer in one.machines if offer not in one.free]
                why = [
                    "; ".join(lack.why for lack in self.ledger(offer).lacks(queued.wanted, offer))
                    for offer in full
                ]
                waits = waits or Wait(one.waits(why))
        return waits or NoPlace("; ".join(never))

    def _groups(self, queued: Queued, possible: list[Offer]) -> list[Together]:
        nodes = nodes_of(queued.wanted)
        return [
            Together(
                nodes, offers, [o for o in offers if not self.ledger(o).lacks(queued.wanted, o)]
            )
            for offers in group(possible).values()
        ]

    def _waits_for_first_node(self, queued: Queued) -> bool:
        several = nodes_of(queued.wanted) > 1
        return several and queued.job.node > 0 and key_of(queued.job) not in self._begun

    def _hold(self, queued: Queued, offer: Offer) -> None:
        ledger, wanted = self.ledger(offer), queued.wanted
        several = nodes_of(wanted) > 1
        shares = several or offer.host is HostKind.PROCESS
        ports = container_ports(wanted) if shares else frozenset()
        held = ledger.reserve(wanted, offer)
        ledger.holders.append(Holder(queued.job.run_name, held, offer, ports))
        self.nodes.setdefault(key_of(queued.job), []).append(offer)

    def _keep(self, queued: Queued) -> None:
        """Keep what the job lacks on every machine where it may be; all that several nodes need."""
        name, possible = queued.job.run_name, _possible(queued)
        if nodes_of(queued.wanted) > 1 and key_of(queued.job) not in self._begun:
            for one in self._groups(queued, possible):
                answering = [o for o in one.machines if o.availability not in GONE]
                if len(answering) >= one.nodes:
                    for offer in answering:
                        self.ledger(offer).kept.setdefault(BLOCKS, name)
            return
        for offer in possible:
            for lack in self.ledger(offer).lacks(queued.wanted, offer):
                self.ledger(offer).kept.setdefault(lack.resource, name)


def _machine(offer: Offer) -> str:
    """Return what two offers of one machine have in common."""
    return "local" if site_of(offer) is Site.HERE else name_of(offer)


def _own_ports(job: Job, *, in_machines_network: bool) -> frozenset[int]:
    """Return the ports of the machine itself on which the job listens, as far as it is known."""
    if job.offer is not None and job.offer.host is HostKind.PROCESS:
        return frozenset(p for r in job.routes for p in (r.local_port, r.container_port))
    if in_machines_network:
        return frozenset(route.container_port for route in job.routes)
    return frozenset()


def _possible(queued: Queued) -> list[Offer]:
    """Return the offers that the job has not tried and that serve it as they are now."""
    tried = {attempt.offer for attempt in queued.job.tried}
    left = [one for one in queued.offers if one.id not in tried and not _is_sold_out(one)]
    return serving(queued.wanted, left)


def _is_sold_out(offer: Offer) -> bool:
    # Our own machines come back when they are started again; a cloud's may not.
    return offer.availability in GONE and not site_of(offer).owned


def _no_place(queued: Queued) -> str:
    tried = {attempt.offer: attempt.why for attempt in queued.job.tried}
    reasons = []
    for offer in queued.offers:
        if offer.id in tried:
            reasons.append(f"{offer.id}: {tried[offer.id]}")
        elif _is_sold_out(offer):
            reasons.append(f"{offer.id}: cannot be had at present")
        else:
            reasons.append(f"{offer.id}: {'; and '.join(reasons_against(queued.wanted, offer))}")
    known = {offer.id for offer in queued.offers}
    reasons += [f"{name}: {why}" for name, why in tried.items() if name not in known]
    return "; ".join(reasons) or "there is no offer to try"
