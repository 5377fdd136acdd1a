"""Whether a job gets a place now, what it holds there, or what it waits for. Pure.

The job loop calls `place` for every submitted job, with all jobs that hold places and all that
wait. This computer is shared by its jobs: CPUs and memory are reserved by the lower bounds that
the author wrote, GPUs belong to one job at a time, and at most `max_jobs` run at once.

First come, first served within a priority: the queue is gone through in order, each waiting job
ahead of ours takes in thought what fits it, and what it still lacks is kept for it. So a job is
never overtaken for a GPU by a later one that asks for a GPU, too; a later one that asks for none
need not wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dstack_engine.decisions import quantities
from dstack_engine.decisions.gpus import choose_gpus, fits
from dstack_engine.decisions.requirements import LOCAL, reasons_against
from dstack_engine.decisions.scripts import PORT_VARIABLE, finds_its_port
from dstack_engine.records.jobs import Job, JobStatus, Reservation
from dstack_engine.records.offers import Availability, Gpu, HostKind, Offer
from dstack_engine.spec.configurations import (
    RunConfiguration,
    ServiceConfiguration,
    TaskConfiguration,
)

#: What is free may be short of what is reserved by this much, so that sums of floats compare.
_EPSILON = 1e-6

_GONE = frozenset({Availability.NO_QUOTA, Availability.NOT_AVAILABLE})


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
    that the job has tried already are passed over. One of this computer that is not available now
    (its Docker Engine does not answer) is waited for, unless the next one has room. *jobs* are all
    that are not finished; *queue* is everything that waits, this job perhaps among it. Routes and
    image are left to the caller.
    """
    ours = Queued(job, wanted, tuple(offers))
    computer = _Computer.with_jobs(jobs, max_jobs)
    for other in sorted(queue, key=_turn):
        if other.job.id != job.id and _turn(other) < _turn(ours):
            computer.serve(other)
    return computer.find_place(ours)


def reserve(wanted: RunConfiguration, gpus: Sequence[Gpu] = ()) -> Reservation:
    """Return what a job of *wanted* holds: written lower bounds; written upper bounds limit it."""
    resources = wanted.resources
    wrote_cpu, wrote_memory = resources.wrote("cpu"), resources.wrote("memory")
    return Reservation(
        cpus=float(resources.cpu.min or 0) if wrote_cpu else 0.0,
        memory_gb=(resources.memory.min or 0.0) if wrote_memory else 0.0,
        gpus=tuple(gpu.uuid for gpu in gpus if gpu.uuid is not None),
        cpu_limit=_limit(resources.cpu.max) if wrote_cpu else None,
        memory_limit_gb=_limit(resources.memory.max) if wrote_memory else None,
        shm_gb=_limit(resources.shm_size),
    )


def _limit(size: float | None) -> float | None:
    """Return a limit that can be set; `inf` is none, and the language lets `nan` and -1 through."""
    return size if size is not None and 0 < size < math.inf else None


def _turn(queued: Queued) -> tuple[int, datetime, str]:
    """Return the key that sorts the queue: the highest priority first, then who came first."""
    return -(queued.wanted.priority or 0), queued.job.submitted_at, queued.job.id


@dataclass(frozen=True)
class _Lack:
    """Something that a job asks and does not get now: what, and the sentence for it."""

    resource: str
    why: str


@dataclass(frozen=True)
class _Amount:
    """Something that is reserved by amount, and how it is said."""

    resource: str
    of: Callable[[Reservation], float]
    words: Callable[[float], str]
    number: Callable[[float], str]


_CPUS = _Amount(
    "CPU",
    lambda held: held.cpus,
    lambda amount: quantities.count_of(amount, "CPU"),
    lambda amount: f"{amount:g}",
)
_MEMORY = _Amount(
    "memory",
    lambda held: held.memory_gb,
    lambda amount: f"{quantities.size(amount)} of memory",
    quantities.size,
)


@dataclass(frozen=True)
class _Holder:
    """Somebody who has a place here, and what of it."""

    name: str
    held: Reservation
    host: HostKind
    #: Ports of this computer that a plain process listens on.
    ports: frozenset[int]


@dataclass
class _Computer:
    """This computer as its jobs share it, while one decision is made."""

    max_jobs: int
    #: Jobs that hold something here, those served in thought included.
    holders: list[_Holder] = field(default_factory=list)
    #: Resources that somebody ahead lacks, and who; nobody behind takes of them.
    kept: dict[str, str] = field(default_factory=dict)

    @classmethod
    def with_jobs(cls, jobs: Iterable[Job], max_jobs: int) -> _Computer:
        """Return the computer with all *jobs* that have a place on it."""
        computer = cls(max_jobs)
        for job in jobs:
            if job.offer is None or job.offer.backend != LOCAL or job.finished:
                continue
            if job.status is not JobStatus.SUBMITTED:
                ports = frozenset(p for r in job.routes for p in (r.local_port, r.container_port))
                held = job.reservation or Reservation()
                computer.holders.append(_Holder(job.run_name, held, job.offer.host, ports))
        return computer

    def serve(self, queued: Queued) -> None:
        """Give a job ahead of ours what fits it, or keep for it what it lacks."""
        placed = self.find_place(queued)
        if isinstance(placed, Placed):
            if placed.offer.backend == LOCAL:
                name, host = queued.job.run_name, placed.offer.host
                ports = container_ports(queued.wanted)
                self.holders.append(_Holder(name, placed.reservation, host, ports))
        elif isinstance(placed, Wait):
            for offer in _possible(queued):
                for lack in self.lacks(queued, offer):
                    self.kept.setdefault(lack.resource, queued.job.run_name)

    def find_place(self, queued: Queued) -> Placed | Wait | NoPlace:
        """Return the first offer that has room, or why there is none."""
        possible = _possible(queued)
        if not possible:
            return NoPlace(_no_place(queued))
        waits = None
        for offer in possible:
            lacks = self.lacks(queued, offer)
            if not lacks:
                return Placed(offer, self._reservation(queued.wanted, offer))
            waits = waits or Wait("; ".join(lack.why for lack in lacks))
        assert waits is not None
        return waits

    def lacks(self, queued: Queued, offer: Offer) -> list[_Lack]:
        """Return everything that the job would have to wait for on *offer*."""
        if offer.availability is Availability.BUSY:
            return [_Lack(f"offer {offer.id}", f"waits for {offer.id}: it is in use")]
        if offer.backend != LOCAL:
            return []
        if offer.availability in _GONE:
            why = f"waits for {offer.id}: it does not answer at present"
            return [_Lack(f"offer {offer.id}", why)]
        asked, shape = reserve(queued.wanted), offer.shape
        found = [
            self._turn_lack(),
            self._amount_lack(_CPUS, asked, shape.cpus),
            self._amount_lack(_MEMORY, asked, shape.memory_gb),
            self._gpu_lack(queued.wanted, offer),
            self._port_lack(queued.wanted, offer),
        ]
        return [lack for lack in found if lack is not None]

    def _turn_lack(self) -> _Lack | None:
        running = len(self.holders)
        if running >= self.max_jobs:
            why = f"waits for its turn: {running} of {self.max_jobs} jobs run on this computer"
            return _Lack("turn", f"{why} (`max_jobs` in config.yml)")
        if "turn" in self.kept:
            return _Lack("turn", f"waits for its turn: run {self.kept['turn']} is before it")
        return None

    def _amount_lack(self, amount: _Amount, asked: Reservation, total: float) -> _Lack | None:
        need = amount.of(asked)
        if need <= 0:
            return None
        words = f"waits for {amount.words(need)}"
        holders = [holder for holder in self.holders if amount.of(holder.held) > 0]
        used = sum(amount.of(holder.held) for holder in holders)
        if need > total - used + _EPSILON:
            who = ", ".join(holder.name for holder in holders)
            of = f"{amount.number(used)} of {amount.number(total)}"
            return _Lack(amount.resource, f"{words}: {of} are reserved by {who}")
        if amount.resource in self.kept:
            return _Lack(amount.resource, f"{words}: run {self.kept[amount.resource]} is before it")
        return None

    def _gpu_lack(self, wanted: RunConfiguration, offer: Offer) -> _Lack | None:
        spec = wanted.resources.gpu
        if spec is None or choose_gpus((), spec) is not None:
            return None
        least = spec.count.min or 1
        words = f"waits for {quantities.count_of(least, 'GPU')}"
        if choose_gpus(self._free_gpus(offer), spec) is None:
            fitting = [gpu for gpu in offer.shape.gpus if fits(gpu, spec)]
            taken = self._taken_gpus()
            used = [gpu for gpu in fitting if gpu.uuid in taken]
            who = ", ".join(dict.fromkeys(taken[gpu.uuid] for gpu in used if gpu.uuid))
            verb = "is" if len(used) == 1 else "are"
            why = f"{words}: {len(used)} of {len(fitting)} {verb} in use by run {who}"
            return _Lack("GPU", why)
        if "GPU" in self.kept:
            return _Lack("GPU", f"{words}: run {self.kept['GPU']} is before it")
        return None

    def _port_lack(self, wanted: RunConfiguration, offer: Offer) -> _Lack | None:
        if offer.host is not HostKind.PROCESS:
            return None
        # Plain processes share this computer's ports, whatever local port they are reached by.
        asked = container_ports(wanted)
        for holder in self.holders:
            for port in sorted(asked & holder.ports if holder.host is HostKind.PROCESS else ()):
                why = f"waits for port {port}: in use by run {holder.name}{_port_advice(wanted)}"
                return _Lack(f"port {port}", why)
        for port in sorted(asked):
            if f"port {port}" in self.kept:
                who = self.kept[f"port {port}"]
                return _Lack(f"port {port}", f"waits for port {port}: run {who} is before it")
        return None

    def _taken_gpus(self) -> dict[str, str]:
        return {uuid: holder.name for holder in self.holders for uuid in holder.held.gpus}

    def _free_gpus(self, offer: Offer) -> list[Gpu]:
        taken = self._taken_gpus()
        return [gpu for gpu in offer.shape.gpus if gpu.uuid not in taken]

    def _reservation(self, wanted: RunConfiguration, offer: Offer) -> Reservation:
        if offer.backend != LOCAL:
            return Reservation(shm_gb=_limit(wanted.resources.shm_size))
        spec = wanted.resources.gpu
        gpus = choose_gpus(self._free_gpus(offer), spec) if spec is not None else ()
        return reserve(wanted, gpus or ())


def container_ports(wanted: RunConfiguration) -> frozenset[int]:
    """Return the ports that the run's program listens on."""
    if isinstance(wanted, ServiceConfiguration) and not finds_its_port(wanted):
        return frozenset({wanted.port.container_port})
    if not isinstance(wanted, TaskConfiguration):
        return frozenset()
    return frozenset(port.container_port for port in wanted.ports)


def _port_advice(wanted: RunConfiguration) -> str:
    if not isinstance(wanted, ServiceConfiguration):
        return ""
    return (
        f". Replicas that are plain processes share this computer's ports: "
        f"have the program listen on ${PORT_VARIABLE}, which is another one for each"
    )


def _possible(queued: Queued) -> list[Offer]:
    """Return the offers that the job has not tried and that serve it as they are now."""
    tried = {attempt.offer for attempt in queued.job.tried}
    return [
        offer
        for offer in queued.offers
        if offer.id not in tried
        and not _is_sold_out(offer)
        and not reasons_against(queued.wanted, offer)
    ]


def _is_sold_out(offer: Offer) -> bool:
    # This computer's Docker Engine comes back when it is restarted; a cloud's machine may not.
    return offer.availability in _GONE and offer.backend != LOCAL


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
