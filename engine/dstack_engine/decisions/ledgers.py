"""What each machine still has, while one decision about places is made. Pure.

A ledger per machine: `Computer` is this one, shared by its jobs; `blocks.SplitMachine` is one of a
fleet; `Rented` stands for what a job would have to itself. `capacity` keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dstack_engine.decisions import quantities
from dstack_engine.decisions.gpus import choose_gpus, fits
from dstack_engine.decisions.ownership import name_of
from dstack_engine.decisions.scripts import PORT_VARIABLE, finds_its_port
from dstack_engine.records.jobs import Reservation
from dstack_engine.records.offers import Availability, Gpu, HostKind, Offer
from dstack_engine.spec.configurations import (
    RunConfiguration,
    ServiceConfiguration,
    TaskConfiguration,
)
from dstack_engine.spec.resources import Gpu as GpuSpec

#: What is free may be short of what is reserved by this much, so that sums of floats compare.
EPSILON = 1e-6

#: Nothing can be had there at present.
GONE = frozenset({Availability.NO_QUOTA, Availability.NOT_AVAILABLE})


@dataclass(frozen=True)
class Lack:
    """Something that a job asks and does not get now: what, and the sentence for it."""

    resource: str
    why: str


@dataclass(frozen=True)
class Holder:
    """Somebody who has a place on a machine, and what of it."""

    name: str
    held: Reservation
    offer: Offer
    #: Ports of the machine itself that it listens on: plain processes, and nodes of a cluster.
    ports: frozenset[int] = frozenset()


class Ledger(Protocol):
    """A machine, while one decision is made; what is held and kept is added to it as it goes."""

    #: Jobs that hold something here, those served in thought included.
    holders: list[Holder]
    #: Resources that somebody ahead lacks, and who; nobody behind takes of them.
    kept: dict[str, str]

    def lacks(self, wanted: RunConfiguration, offer: Offer) -> list[Lack]:
        """Return everything that a job of *wanted* would have to wait for on *offer*."""

    def reserve(self, wanted: RunConfiguration, offer: Offer) -> Reservation:
        """Return what such a job holds here, where it lacks nothing."""


@dataclass
class Rented:
    """A machine that would be rented for one job, and is that job's own."""

    holders: list[Holder] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)

    def lacks(self, wanted: RunConfiguration, offer: Offer) -> list[Lack]:
        """Return that it is in use, where it is one that was rented already."""
        if offer.availability is not Availability.BUSY:
            return []
        return [Lack(f"offer {offer.id}", f"waits for {offer.id}: it is in use")]

    def reserve(self, wanted: RunConfiguration, offer: Offer) -> Reservation:
        """Return nothing but the size of shared memory: the job has all of the machine."""
        return Reservation(shm_gb=limit(wanted.resources.shm_size))


@dataclass
class Computer:
    """This computer as its jobs share it: lower bounds are reserved, GPUs belong to one job."""

    max_jobs: int
    holders: list[Holder] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)

    def lacks(self, wanted: RunConfiguration, offer: Offer) -> list[Lack]:
        """See `Ledger.lacks`."""
        if offer.availability in GONE:
            return [no_answer(offer)]
        asked, shape = asked_of(wanted), offer.shape
        found = [
            self._turn_lack(),
            self._amount_lack(_CPUS, asked, shape.cpus),
            self._amount_lack(_MEMORY, asked, shape.memory_gb),
            self._gpu_lack(wanted, offer),
            self._port_lack(wanted, offer),
        ]
        return [lack for lack in found if lack is not None]

    def reserve(self, wanted: RunConfiguration, offer: Offer) -> Reservation:
        """Return written lower bounds and whole GPUs; written upper bounds limit the job."""
        spec = wanted.resources.gpu
        gpus = choose_gpus(free_gpus(self.holders, offer), spec) if spec is not None else ()
        return asked_of(wanted, gpus or ())

    def _turn_lack(self) -> Lack | None:
        running = len(self.holders)
        if running >= self.max_jobs:
            why = f"waits for its turn: {running} of {self.max_jobs} jobs run on this computer"
            return Lack("turn", f"{why} (`max_jobs` in config.yml)")
        return kept_lack(self.kept, "turn", "waits for its turn")

    def _amount_lack(self, amount: _Amount, asked: Reservation, total: float) -> Lack | None:
        need = amount.of(asked)
        if need <= 0:
            return None
        words = f"waits for {amount.words(need)}"
        holders = [holder for holder in self.holders if amount.of(holder.held) > 0]
        used = sum(amount.of(holder.held) for holder in holders)
        if need > total - used + EPSILON:
            who = ", ".join(holder.name for holder in holders)
            of = f"{amount.number(used)} of {amount.number(total)}"
            return Lack(amount.resource, f"{words}: {of} are reserved by {who}")
        return kept_lack(self.kept, amount.resource, words)

    def _gpu_lack(self, wanted: RunConfiguration, offer: Offer) -> Lack | None:
        spec = wanted.resources.gpu
        if spec is None or choose_gpus((), spec) is not None:
            return None
        if choose_gpus(free_gpus(self.holders, offer), spec) is None:
            return gpu_lack(self.holders, spec, offer)
        return kept_lack(self.kept, "GPU", gpu_words(spec))

    def _port_lack(self, wanted: RunConfiguration, offer: Offer) -> Lack | None:
        if offer.host is not HostKind.PROCESS:
            return None
        # Plain processes share this computer's ports, whatever local port they are reached by.
        return port_lack(self.holders, self.kept, container_ports(wanted), _port_advice(wanted))


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


def asked_of(wanted: RunConfiguration, gpus: Sequence[Gpu] = ()) -> Reservation:
    """Return what a job of *wanted* asks: written lower bounds; written upper bounds limit it."""
    resources = wanted.resources
    wrote_cpu, wrote_memory = resources.wrote("cpu"), resources.wrote("memory")
    return Reservation(
        cpus=float(resources.cpu.min or 0) if wrote_cpu else 0.0,
        memory_gb=(resources.memory.min or 0.0) if wrote_memory else 0.0,
        gpus=tuple(gpu.uuid for gpu in gpus if gpu.uuid is not None),
        cpu_limit=limit(resources.cpu.max) if wrote_cpu else None,
        memory_limit_gb=limit(resources.memory.max) if wrote_memory else None,
        shm_gb=limit(resources.shm_size),
    )


def limit(size: float | None) -> float | None:
    """Return a limit that can be set; `inf` is none, and the language lets `nan` and -1 through."""
    return size if size is not None and 0 < size < math.inf else None


def container_ports(wanted: RunConfiguration) -> frozenset[int]:
    """Return the ports that the run's program listens on."""
    if isinstance(wanted, ServiceConfiguration) and not finds_its_port(wanted):
        return frozenset({wanted.port.container_port})
    if not isinstance(wanted, TaskConfiguration):
        return frozenset()
    return frozenset(port.container_port for port in wanted.ports)


def free_gpus(holders: Sequence[Holder], offer: Offer) -> list[Gpu]:
    """Return the machine's GPUs that none of *holders* has."""
    taken = _taken_gpus(holders)
    return [gpu for gpu in offer.shape.gpus if gpu.uuid not in taken]


def no_answer(offer: Offer) -> Lack:
    """Return the lack of a machine of ours that cannot be had now; a remark says why, if known."""
    why = f"waits for {name_of(offer)}: it does not answer at present"
    if offer.instance is not None and offer.remarks:
        why = f"waits: {offer.remarks[0]}"
    return Lack(f"offer {offer.id}", why)


def kept_lack(kept: dict[str, str], resource: str, words: str) -> Lack | None:
    """Return the lack of what is kept for somebody ahead; None where it is not."""
    if resource not in kept:
        return None
    return Lack(resource, f"{words}: run {kept[resource]} is before it")


def gpu_words(spec: GpuSpec) -> str:
    """Return how a wait for GPUs begins."""
    return f"waits for {quantities.count_of(spec.count.min or 1, 'GPU')}"


def gpu_lack(holders: Sequence[Holder], spec: GpuSpec, offer: Offer) -> Lack:
    """Return the lack of GPUs of which *holders* have too many, and who those are."""
    fitting = [gpu for gpu in offer.shape.gpus if fits(gpu, spec)]
    taken = _taken_gpus(holders)
    used = [gpu for gpu in fitting if gpu.uuid in taken]
    who = ", ".join(dict.fromkeys(taken[gpu.uuid] for gpu in used if gpu.uuid))
    verb = "is" if len(used) == 1 else "are"
    where = f" of {offer.instance}" if offer.instance else ""
    return Lack(
        "GPU", f"{gpu_words(spec)}{where}: {len(used)} of {len(fitting)} {verb} in use by run {who}"
    )


def port_lack(
    holders: Sequence[Holder], kept: dict[str, str], asked: frozenset[int], advice: str = ""
) -> Lack | None:
    """Return the lack of a port of the machine itself that somebody listens on, or is to."""
    for holder in holders:
        for port in sorted(asked & holder.ports):
            why = f"waits for port {port}: in use by run {holder.name}{advice}"
            return Lack(f"port {port}", why)
    lacks = (kept_lack(kept, f"port {port}", f"waits for port {port}") for port in sorted(asked))
    return next((lack for lack in lacks if lack is not None), None)


def _taken_gpus(holders: Sequence[Holder]) -> dict[str, str]:
    return {uuid: holder.name for holder in holders for uuid in holder.held.gpus}


def _port_advice(wanted: RunConfiguration) -> str:
    if not isinstance(wanted, ServiceConfiguration):
        return ""
    return (
        f". Replicas that are plain processes share this computer's ports: "
        f"have the program listen on ${PORT_VARIABLE}, which is another one for each"
    )
