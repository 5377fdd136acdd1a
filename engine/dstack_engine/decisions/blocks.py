"""A machine of a fleet as its jobs share it: whole, or in so many equal parts. Pure.

With one block the machine belongs to one job at a time. With more, a job takes the fewest of them
that satisfy what it asks, and of CPUs, memory and GPUs no more than those are of the whole: the
host limits it to that, so that no job takes of its neighbour's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil

from dstack_engine.decisions.gpus import choose_gpus
from dstack_engine.decisions.ledgers import (
    EPSILON,
    GONE,
    Holder,
    Lack,
    asked_of,
    container_ports,
    free_gpus,
    gpu_lack,
    gpu_words,
    kept_lack,
    no_answer,
    port_lack,
)
from dstack_engine.decisions.ownership import name_of, nodes_of
from dstack_engine.records.jobs import Reservation
from dstack_engine.records.offers import Availability, Gpu, MachineShape, Offer
from dstack_engine.spec.configurations import RunConfiguration

#: What is short on a machine that has too few free blocks.
BLOCKS = "blocks"


@dataclass
class SplitMachine:
    """One machine of a fleet, while a decision is made; see `ledgers.Ledger`."""

    holders: list[Holder] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)

    def lacks(self, wanted: RunConfiguration, offer: Offer) -> list[Lack]:
        """Return what is short: blocks, GPUs of a model, a port of the machine itself."""
        if offer.availability in GONE:
            return [no_answer(offer)]
        found = [self._share_lack(wanted, offer), self._port_lack(wanted)]
        return [lack for lack in found if lack is not None]

    def reserve(self, wanted: RunConfiguration, offer: Offer) -> Reservation:
        """Return the blocks that the job takes, and what they are of the machine."""
        share = self._find_share(wanted, offer)
        assert share is not None, f"{offer.id} has no room"
        blocks, gpus = share
        asked, part = asked_of(wanted, gpus), Fraction(blocks, offer.blocks)
        held = replace(
            asked,
            cpus=float(offer.shape.cpus * part),
            memory_gb=offer.shape.memory_gb * float(part),
            blocks=blocks,
        )
        return held if part == 1 else _limited(held)

    def _share_lack(self, wanted: RunConfiguration, offer: Offer) -> Lack | None:
        asks_gpus = bool(_some_gpus(wanted, offer))
        if self._find_share(wanted, offer) is not None:
            name = name_of(offer)
            lack = kept_lack(self.kept, BLOCKS, f"waits for {name}")
            if lack is None and asks_gpus:
                spec = wanted.resources.gpu
                assert spec is not None
                lack = kept_lack(self.kept, "GPU", f"{gpu_words(spec)} of {name}")
            return lack
        least = _least_blocks(wanted, offer)
        if least <= offer.blocks - used_blocks(self.holders, offer) and asks_gpus:
            assert wanted.resources.gpu is not None
            return gpu_lack(self.holders, wanted.resources.gpu, offer)
        return Lack(BLOCKS, self._blocks_words(least, offer))

    def _blocks_words(self, least: int, offer: Offer) -> str:
        who = ", ".join(dict.fromkeys(holder.name for holder in self.holders))
        name = name_of(offer)
        if offer.blocks == 1:
            return f"waits for {name}: in use by run {who}"
        used = used_blocks(self.holders, offer)
        verb = "is" if used == 1 else "are"
        return (
            f"waits for {least} of the {offer.blocks} blocks of {name}: "
            f"{used} {verb} in use by run {who}"
        )

    def _port_lack(self, wanted: RunConfiguration) -> Lack | None:
        # Only nodes of a cluster have the machine's own network; other containers have their own.
        if nodes_of(wanted) == 1:
            return None
        return port_lack(self.holders, self.kept, container_ports(wanted))

    def _find_share(
        self, wanted: RunConfiguration, offer: Offer
    ) -> tuple[int, tuple[Gpu, ...]] | None:
        """Return the fewest free blocks that will do, with their GPUs; None where none will."""
        free = offer.blocks - used_blocks(self.holders, offer)
        return _share(wanted, offer, free, free_gpus(self.holders, offer))


def used_blocks(holders: Sequence[Holder], offer: Offer) -> int:
    """Return how many of the machine's blocks *holders* have, as it is split now.

    Who has a place since it was split otherwise has as large a part of it as then.
    """
    used = 0
    for holder in holders:
        part = Fraction(holder.held.blocks, holder.offer.blocks) if holder.held.blocks else 1
        used += ceil(part * offer.blocks)
    return min(used, offer.blocks)


def standing(offer: Offer, holders: Sequence[Holder]) -> Availability:
    """Return whether a machine of a fleet that answers has any room left."""
    if offer.availability in GONE:
        return offer.availability
    taken = used_blocks(holders, offer) >= offer.blocks
    return Availability.BUSY if taken else Availability.IDLE


def _least_blocks(wanted: RunConfiguration, offer: Offer) -> int:
    """Return how many blocks will do where nobody else has any."""
    share = _share(wanted, offer, offer.blocks, offer.shape.gpus)
    return share[0] if share is not None else offer.blocks


def _share(
    wanted: RunConfiguration, offer: Offer, most: int, gpus: Sequence[Gpu]
) -> tuple[int, tuple[Gpu, ...]] | None:
    asked, shape = asked_of(wanted), offer.shape
    for blocks in range(1, most + 1):
        part = Fraction(blocks, offer.blocks)
        if not _enough(asked, shape, float(part)):
            continue
        chosen = _gpus_of(wanted, gpus, int(len(shape.gpus) * part))
        if chosen is not None:
            return blocks, chosen
    return None


def _enough(asked: Reservation, shape: MachineShape, part: float) -> bool:
    cpus, memory = shape.cpus * part, shape.memory_gb * part
    return asked.cpus <= cpus + EPSILON and asked.memory_gb <= memory + EPSILON


def _gpus_of(wanted: RunConfiguration, gpus: Sequence[Gpu], most: int) -> tuple[Gpu, ...] | None:
    spec = wanted.resources.gpu
    return () if spec is None else choose_gpus(gpus, spec, share=most)


def _some_gpus(wanted: RunConfiguration, offer: Offer) -> tuple[Gpu, ...]:
    """Return GPUs that the job would take of a machine that nobody uses; empty for none."""
    return _gpus_of(wanted, offer.shape.gpus, len(offer.shape.gpus)) or ()


def _limited(held: Reservation) -> Reservation:
    """Return the part of a machine as what it is limited to, unless less was written."""
    cpus, memory = held.cpu_limit, held.memory_limit_gb
    return replace(
        held,
        cpu_limit=held.cpus if cpus is None else min(cpus, held.cpus),
        memory_limit_gb=held.memory_gb if memory is None else min(memory, held.memory_gb),
    )
