"""Runs of several nodes: machines of one fleet, all of them at once or none. Pure.

`placement` asks whether a fleet has as many machines as a run has nodes, `capacity` whether they
have room at once; the nodes that have a place already bind the others to their fleet. The job loop
asks which of them may start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dstack_engine.decisions.demands import Demand
from dstack_engine.decisions.ownership import READ_FLEET, Site, name_of, site_of
from dstack_engine.records.jobs import Job, JobStatus
from dstack_engine.records.offers import Offer
from dstack_engine.spec.profiles import StartupOrder

#: All nodes of one attempt of a run.
ClusterKey = tuple[str, int, int]


def key_of(job: Job) -> ClusterKey:
    """Return what the nodes of one attempt of one replica have in common."""
    return job.run_id, job.replica, job.attempt


def placed_nodes(jobs: Iterable[Job]) -> dict[ClusterKey, list[Offer]]:
    """Return the offers that nodes of each attempt hold now."""
    found: dict[ClusterKey, list[Offer]] = {}
    for job in jobs:
        if job.offer is not None and job.status is not JobStatus.SUBMITTED and not job.finished:
            found.setdefault(key_of(job), []).append(job.offer)
    return found


def demand_of_nodes(nodes: int, fitting: Sequence[Offer]) -> Demand:
    """Return the demand that a fleet has *nodes* machines; *fitting* are those that would do."""
    asked = f"asks {nodes} nodes"
    groups = group(fitting)

    def reason(offer: Offer) -> str:
        return f"{asked}; {_too_few(offer, len(groups.get(group_of(offer), ())))}"

    enough = {one[0].fleet for one in groups.values() if len(one) >= nodes}
    return Demand(asked, READ_FLEET, enough.__contains__, reason)


def group_of(offer: Offer) -> str:
    """Return the name of what the nodes of one run must share: the fleet, or the region."""
    return offer.fleet or f"{offer.backend}/{offer.region}"


def group(offers: Iterable[Offer]) -> dict[str, list[Offer]]:
    """Return *offers* by what nodes must share, in their order, each machine of ours once."""
    found: dict[str, dict[str, Offer]] = {}
    for offer in offers:
        found.setdefault(group_of(offer), {}).setdefault(name_of(offer), offer)
    return {name: list(machines.values()) for name, machines in found.items()}


def with_their_fleets(chosen: Sequence[Offer], offers: Iterable[Offer]) -> list[Offer]:
    """Return *chosen*, then those of *offers* that are of the same fleets."""
    groups, known = {group_of(offer) for offer in chosen}, {offer.id for offer in chosen}
    others = [one for one in offers if group_of(one) in groups and one.id not in known]
    return [*chosen, *others]


@dataclass(frozen=True)
class Together:
    """Machines of one group, as they stand for a run of so many nodes."""

    nodes: int
    machines: Sequence[Offer]
    #: Those that have room now.
    free: Sequence[Offer]

    @property
    def can_ever(self) -> bool:
        """Tell whether there are machines enough, in use or not; what is rented has no end."""
        return self._rented or len(self.machines) >= self.nodes

    @property
    def places(self) -> list[Offer] | None:
        """Return a machine for each node, or None while they cannot be had at once."""
        if self._rented:
            return [self.machines[0]] * self.nodes if self.free else None
        return list(self.free[: self.nodes]) if len(self.free) >= self.nodes else None

    @property
    def too_few(self) -> str:
        """Return the sentence for a group that can never hold all nodes."""
        return f"asks {self.nodes} nodes; {_too_few(self.machines[0], len(self.machines))}"

    def waits(self, why: Iterable[str]) -> str:
        """Return what the run waits for; *why* are the sentences of machines without room."""
        of = group_of(self.machines[0])
        head = f"waits for {self.nodes} machines of fleet {of} at once: {len(self.free)} "
        verb = "has" if len(self.free) == 1 else "have"
        told = [one.removeprefix("waits for ").removeprefix("waits: ") for one in why]
        return "; ".join((f"{head}of {len(self.machines)} {verb} room", *told[:2]))

    @property
    def _rented(self) -> bool:
        return site_of(self.machines[0]) is Site.RENTED and self.machines[0].instance is None


def why_not_yet(job: Job, siblings: Iterable[Job], nodes: int, order: StartupOrder) -> str | None:
    """Return what a prepared node waits for before it starts, in a sentence; None for nothing.

    *siblings* are all nodes of the attempt that there are. None starts before all are prepared;
    then *order* says who is first.
    """
    others = {one.node: one for one in siblings if one.id != job.id}
    for node in range(nodes):
        other = others.get(node)
        if node != job.node and not (other is not None and _is_prepared(other)):
            return f"waits for node {node}: all nodes start together"
    if order == "master-first" and job.node > 0 and others[0].started_at is None:
        return "waits for node 0, which starts first"
    late = [node for node, other in others.items() if other.started_at is None]
    if order == "workers-first" and job.node == 0 and late:
        return f"waits for node {late[0]}: the others start first"
    return None


def _is_prepared(job: Job) -> bool:
    if job.status is JobStatus.PULLING:
        return job.prepared
    return job.status in (JobStatus.RUNNING, JobStatus.DONE)


def _too_few(offer: Offer, count: int) -> str:
    machines = "1 machine that fits" if count == 1 else f"{count} machines that fit"
    return f"fleet {group_of(offer)} has {machines}"
