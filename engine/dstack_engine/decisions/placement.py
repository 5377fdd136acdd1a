"""Which offers a run may be placed on, in what order, and why each other offer was refused. Pure.

The engine calls `plan` with every backend's offers; the user chooses from the result, or the first
is taken. Where nothing fits, `no_offers` says which demand removed how many.

A catalog of 50,000 offers takes some tens of milliseconds: each demand looks at each *distinct*
value once (backends therefore share one `MachineShape` among the offers of one machine type), what
an offer fails is one number of bits, and sentences are written only for what is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial, reduce
from heapq import nsmallest
from itertools import chain, repeat
from operator import attrgetter, or_
from typing import Any, NamedTuple

from dstack_engine.decisions.clusters import demand_of_nodes
from dstack_engine.decisions.demands import READ_BY_IDENTITY, READ_PRICE, Demand
from dstack_engine.decisions.ownership import LOCAL, SSH, Site, nodes_of
from dstack_engine.decisions.requirements import demands_of, remarks_on
from dstack_engine.errors import NoOffers
from dstack_engine.records.offers import (
    Availability,
    HostKind,
    Offer,
    Plan,
    Refusal,
    RefusalCount,
)
from dstack_engine.spec.configurations import RunConfiguration

#: As many offers, and as many refusals, as a plan names (dstack's figure).
PLAN_LIMIT = 50

#: Reasons and refused offers that the text of `no_offers` tells; the rest is counted.
_TOLD = 10

#: What stands ready first, then what can be had, then what must be waited for, then what is gone.
_RANKS = {
    Availability.IDLE: 0,
    Availability.AVAILABLE: 1,
    Availability.UNKNOWN: 1,
    Availability.BUSY: 2,
    Availability.NO_QUOTA: 3,
    Availability.NOT_AVAILABLE: 3,
}

_read_backend = attrgetter("backend")

#: What offers are ordered by, and where each is found again.
_Rank = tuple[int, int, tuple[int, int], float, bool, int, int]


class _Sorted(NamedTuple):
    """Some offers, each with the bits of the demands that it fails."""

    site: Site
    offers: Sequence[Offer]
    demands: tuple[Demand, ...]
    failed: list[int]
    tally: Counter[int]

    @property
    def fitting(self) -> list[int]:
        return [index for index, bits in enumerate(self.failed) if not bits]

    def refusal(self, index: int) -> Refusal:
        offer = self.offers[index]
        bits = self.failed[index]
        reasons = [d.reason(offer) for n, d in enumerate(self.demands) if bits >> n & 1]
        return Refusal(offer, tuple(reasons))


def plan(
    wanted: RunConfiguration,
    offers: Sequence[Offer],
    *,
    limit: int = PLAN_LIMIT,
    configured: Iterable[str] = (),
) -> Plan:
    """Return the offers that serve *wanted*, the best first, and why the others do not.

    *configured* names the backends that were asked for *offers*, also those that had none. At most
    *limit* offers and *limit* refusals are named (those of this computer, then the nearest misses);
    the totals count all.
    """
    sides = [_sort(wanted, some, site) for site, some in _by_site(offers).items()]
    turns = _turns(wanted)
    rankings = (_ranking(some, turns[some.site], side) for side, some in enumerate(sides))
    best = nsmallest(limit, chain.from_iterable(rankings))
    chosen = [sides[side].offers[index] for *_, side, index in best]
    total = sum(some.tally[0] for some in sides)
    return Plan(
        offers=tuple(_with_remarks(wanted, offer) for offer in chosen),
        refusals=tuple(chain.from_iterable(_refusals(some, limit) for some in sides))[:limit],
        total_offers=total,
        total_refused=len(offers) - total,
        refused_by=_refused_by(sides),
        remarks=(*_backend_remarks(wanted, offers, configured), *_fleet_remarks(wanted, offers)),
    )


def no_offers(plan: Plan) -> NoOffers:
    """Return the error for an empty *plan*: each refused offer's reasons, or how many each hit.

    Its first line says it all in short; the table is below it.
    """
    if not plan.total_refused:
        return NoOffers("\n".join(("no backend has anything to offer", *plan.remarks)))
    alone = plan.total_refused == 1
    head = "the only offer does not fit" if alone else f"none of {plan.total_refused} offers fits"
    lines = [f"{head} what is asked", *_told_refusals(plan.refusals[:_TOLD])]
    if plan.total_refused > _TOLD:
        lines.append(f"and {plan.total_refused - _TOLD} more; removed by each demand:")
        lines += [f"  {count.count:>7,}  {count.reason}" for count in plan.refused_by[:_TOLD]]
    return NoOffers("\n".join((*lines, *plan.remarks)))


def _told_refusals(refusals: Iterable[Refusal]) -> Iterator[str]:
    together: dict[tuple[str, ...], list[str]] = {}
    for refusal in refusals:
        together.setdefault(refusal.reasons, []).append(refusal.offer.id)
    for reasons, ids in together.items():
        yield f"  {', '.join(ids)}:"
        yield from (f"    {reason}" for reason in reasons)


def _by_site(offers: Sequence[Offer]) -> dict[Site, Sequence[Offer]]:
    """Return the offers of this computer, those of fleets, and all others."""
    backends = list(map(_read_backend, offers))
    if not {LOCAL, SSH} & set(backends):
        return {Site.RENTED: offers}
    pairs = list(zip(offers, backends, strict=True))
    return {
        Site.HERE: [offer for offer, backend in pairs if backend == LOCAL],
        Site.FLEET: [offer for offer, backend in pairs if backend == SSH],
        Site.RENTED: [offer for offer, backend in pairs if backend not in (LOCAL, SSH)],
    }


def _sort(wanted: RunConfiguration, offers: Sequence[Offer], site: Site) -> _Sorted:
    demands = demands_of(wanted, site) if offers else ()
    failed = _failed(offers, demands)
    if offers and site is Site.FLEET and nodes_of(wanted) > 1:
        fitting = [offer for offer, bits in zip(offers, failed, strict=True) if not bits]
        demand = demand_of_nodes(nodes_of(wanted), fitting)
        alone = _column(offers, demand.read, [(1 << len(demands), demand)])
        # Whatever else keeps a machine out is said alone: it is why its fleet has too few.
        failed = [bits or more for bits, more in zip(failed, alone, strict=True)]
        demands = (*demands, demand)
    return _Sorted(site, offers, demands, failed, Counter(failed))


def _failed(offers: Sequence[Offer], demands: Sequence[Demand]) -> list[int]:
    """Return for each offer the demands that it fails, demand n as bit n."""
    together: dict[Callable[[Offer], Any], list[tuple[int, Demand]]] = {}
    for number, demand in enumerate(demands):
        together.setdefault(demand.read, []).append((1 << number, demand))
    columns = [_column(offers, read, group) for read, group in together.items()]
    return list(reduce(partial(map, or_), columns) if columns else repeat(0, len(offers)))


def _column(
    offers: Sequence[Offer],
    read: Callable[[Offer], Any],
    demands: Sequence[tuple[int, Demand]],
) -> Iterable[int]:
    """Return the failed bits of the demands that look at the same thing, looked at once a value."""
    if read is READ_PRICE and len(demands) == 1:
        # Nearly every price is another one, so there is nothing to gain by remembering them.
        bit, demand = demands[0]
        return map((bit, 0).__getitem__, map(demand.meets, map(read, offers)))
    values = list(map(read, offers))
    if read in READ_BY_IDENTITY:
        ids = list(map(id, values))
        distinct = dict(zip(ids, values, strict=True))
        return map({key: _bits(distinct[key], demands) for key in distinct}.__getitem__, ids)
    return map({value: _bits(value, demands) for value in set(values)}.__getitem__, values)


def _bits(value: object, demands: Sequence[tuple[int, Demand]]) -> int:
    return sum(bit for bit, demand in demands if not demand.meets(value))


def _turns(wanted: RunConfiguration) -> dict[Site, int]:
    gpu = wanted.resources.gpu
    asks_gpus = gpu is not None and gpu.count.max != 0
    first, second = (Site.FLEET, Site.HERE) if asks_gpus else (Site.HERE, Site.FLEET)
    return {first: 0, second: 1, Site.RENTED: 2}


def _ranking(some: _Sorted, turn: int, side: int) -> Iterable[_Rank]:
    indices = some.fitting
    fitting = [some.offers[index] for index in indices]
    # An enumeration's members are hashed in Python, so they are told apart by identity here.
    ranks = {id(member): rank for member, rank in _RANKS.items()}
    if some.site is Site.HERE:  # it stands ready, whoever uses it, too
        ranks[id(Availability.AVAILABLE)] = ranks[id(Availability.IDLE)]
    fleet = some.site is Site.FLEET
    return zip(
        [ranks[id(offer.availability)] for offer in fitting],
        repeat(turn),
        map(_size, fitting) if fleet else repeat((0, 0)),
        map(READ_PRICE, fitting),
        [offer.host is not HostKind.DOCKER for offer in fitting],
        repeat(side),
        indices,
        strict=False,
    )


def _size(offer: Offer) -> tuple[int, int]:
    return len(offer.shape.gpus), offer.shape.cpus


def _refusals(some: _Sorted, limit: int) -> list[Refusal]:
    """Return the refusals to name: those that fail the fewest demands, the cheapest first."""
    nearest = sorted((bits for bits in some.tally if bits), key=int.bit_count)
    shown: dict[int, int] = {}
    for bits in nearest:
        if sum(some.tally[other] for other in shown) >= limit and (
            bits.bit_count() > max(shown.values(), default=0)
        ):
            break
        shown[bits] = bits.bit_count()
    indices = [index for index, bits in enumerate(some.failed) if bits in shown]
    misses = [shown[some.failed[index]] for index in indices]
    prices = [some.offers[index].price for index in indices]
    best = nsmallest(limit, zip(misses, prices, indices, strict=True))
    return [some.refusal(index) for *_, index in best]


def _refused_by(sides: Iterable[_Sorted]) -> tuple[RefusalCount, ...]:
    """Return how many offers each demand removed, the most first; an offer counts for each."""
    counts: Counter[str] = Counter()
    for some in sides:
        for bits, number in some.tally.items():
            for asked in {d.asked for n, d in enumerate(some.demands) if bits >> n & 1}:
                counts[asked] += number
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(RefusalCount(reason, count) for reason, count in ordered)


def _with_remarks(wanted: RunConfiguration, offer: Offer) -> Offer:
    remarks = remarks_on(wanted, offer)
    return replace(offer, remarks=(*offer.remarks, *remarks)) if remarks else offer


def _backend_remarks(
    wanted: RunConfiguration, offers: Iterable[Offer], configured: Iterable[str]
) -> tuple[str, ...]:
    if not wanted.backends:
        return ()
    there = {*configured, *map(_read_backend, offers)}
    missing = [
        name
        for name in dict.fromkeys(wanted.backends)
        if name not in there and not (name == "remote" and "ssh" in there)
    ]
    if not missing:
        return ()
    verb = "is" if len(missing) == 1 else "are"
    known = ", ".join(sorted(there)) or "none"
    return (f"{', '.join(missing)} {verb} not configured; configured: {known}",)


def _fleet_remarks(wanted: RunConfiguration, offers: Iterable[Offer]) -> tuple[str, ...]:
    if not wanted.fleets:
        return ()
    there = {offer.fleet for offer in offers if offer.fleet is not None}
    missing = [name for name in dict.fromkeys(wanted.fleets) if name not in there]
    if not missing:
        return ()
    word, verb = ("fleet", "has") if len(missing) == 1 else ("fleets", "have")
    known = ", ".join(sorted(there)) or "none"
    told = f"{word} {', '.join(missing)} {verb} no machine that can be used"
    return (f"{told}; fleets with some: {known}",)
