"""Places for jobs: what may be had now, who else waits for it, and at which ports it is reached.

The job loop asks one job at a time, and writes what it is told together with the job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from dstack_engine.decisions import capacity
from dstack_engine.decisions.instances import name_instance, trouble_of
from dstack_engine.decisions.jobs import NoPlace, Placed, Waits
from dstack_engine.decisions.ownership import SSH
from dstack_engine.errors import Conflict
from dstack_engine.reconcilers.containers import image_of
from dstack_engine.reconcilers.runs import wish_for
from dstack_engine.reconcilers.world import World
from dstack_engine.records.instances import Instance, InstanceName, InstanceStatus
from dstack_engine.records.jobs import Job, JobReason, JobStatus, TriedOffer
from dstack_engine.records.offers import Availability, Offer
from dstack_engine.records.runs import Run
from dstack_engine.store.store import Transaction

_GONE = "the machine is in no fleet any more"


class Places:
    """Finds places; to be asked by one thread at a time, since it must see every other's answer."""

    def __init__(self, world: World) -> None:
        """Look at *world*; nothing is written but by `claim`."""
        self._world = world

    def find(self, job: Job, run: Run) -> Placed | Waits | NoPlace:
        """Return where *job* may run now, why it waits, or why there is no place for it."""
        world = self._world
        offers = world.list_offers()
        instances = (kept.record for kept in world.store.instances(finished=False))
        machines: dict[str, Instance] = {instance.name: instance for instance in instances}
        active = [kept.record for kept in world.store.jobs(finished=False)]
        agreed = _agreed(run, offers, machines)
        answer = capacity.place(
            _without_gone(job, run, agreed),
            run.configuration,
            agreed,
            active,
            max_jobs=world.settings.local.max_jobs,
            queue=self._queue(job, active, offers, machines),
        )
        match answer:
            case capacity.Wait():
                return Waits(answer.reason)
            case capacity.NoPlace():
                return NoPlace(answer.reason)
            case capacity.Placed():
                return self._route(job, run, answer, active)

    def claim(self, placed: Placed, transaction: Transaction) -> bool:
        """Have the instance wanted, where it is to be rented; tell whether it still can be had.

        A machine of a fleet may be on its way out since the place was found.
        """
        known = self._world.store.instance(placed.instance)
        if known is not None:
            return not _is_leaving(known.record)
        if placed.offer.backend == SSH:
            return False
        now = self._world.clock()
        transaction.insert(
            Instance(
                name=InstanceName(placed.instance),
                backend=placed.offer.backend,
                offer=placed.offer,
                status=InstanceStatus.PENDING,
                since=now,
                created_at=now,
            )
        )
        return True

    def _queue(
        self,
        job: Job,
        active: Sequence[Job],
        offers: Sequence[Offer],
        machines: Mapping[str, Instance],
    ) -> Iterator[capacity.Queued]:
        for other in active:
            if other.status is JobStatus.SUBMITTED and other.id != job.id:
                kept = self._world.store.run_by_id(other.run_id)
                if kept is not None and wish_for(kept.record, other) is None:
                    agreed = tuple(_agreed(kept.record, offers, machines))
                    yield capacity.Queued(other, kept.record.configuration, agreed)

    def _route(
        self, job: Job, run: Run, place: capacity.Placed, active: Sequence[Job]
    ) -> Placed | NoPlace:
        try:
            # The ports of a run of several nodes are those of its first.
            chosen = (
                self._world.choose_routes(run.configuration, place.offer, active, job=job.container)
                if job.node == 0
                else ()
            )
        except Conflict as conflict:
            return NoPlace(conflict.message, JobReason.PORTS_BINDING_FAILED)
        return Placed(
            offer=place.offer,
            instance=name_instance(place.offer, job.id),
            reservation=place.reservation,
            routes=chosen,
            image=image_of(run.configuration, place.offer, self._world.settings),
        )


def _agreed(run: Run, offers: Sequence[Offer], machines: Mapping[str, Instance]) -> list[Offer]:
    """Return the offers that the run's user agreed to, in their order, as they are now.

    One that is not there at present, as while a Docker Engine restarts, is waited for; a machine
    that its fleet has let go is not. Machines that joined such a fleet since come last.
    """
    now = {offer.id: offer for offer in offers}
    found = [now.get(offer.id, replace(offer, availability=_AWAY)) for offer in run.offers]
    fleets = {offer.fleet for offer in run.offers if offer.fleet is not None}
    found += [offer for offer in offers if offer.fleet in fleets and _joined(offer, run, machines)]
    return [_told(offer, machines) for offer in found if not _has_left(offer, machines)]


_AWAY = Availability.NOT_AVAILABLE


def _joined(offer: Offer, run: Run, machines: Mapping[str, Instance]) -> bool:
    machine = machines.get(offer.instance or "")
    known = any(agreed.id == offer.id for agreed in run.offers)
    return machine is not None and not known and machine.created_at > run.submitted_at


def _has_left(offer: Offer, machines: Mapping[str, Instance]) -> bool:
    machine = machines.get(offer.instance or "")
    return offer.backend == SSH and (machine is None or _is_leaving(machine))


def _is_leaving(machine: Instance) -> bool:
    leaving = machine.status in (InstanceStatus.TERMINATING, InstanceStatus.TERMINATED)
    return leaving or machine.delete_requested_at is not None


def _told(offer: Offer, machines: Mapping[str, Instance]) -> Offer:
    """Return a machine's offer that cannot be had now with why as its only remark."""
    machine = machines.get(offer.instance or "")
    if machine is None or offer.availability is not _AWAY:
        return offer
    trouble = trouble_of(machine)
    return offer if trouble is None else replace(offer, remarks=(trouble,))


def _without_gone(job: Job, run: Run, agreed: Sequence[Offer]) -> Job:
    """Return the job as if it had tried the machines that have left: so they are told."""
    there = {offer.id for offer in agreed}
    gone = [TriedOffer(offer.id, _GONE) for offer in run.offers if offer.id not in there]
    return replace(job, tried=(*job.tried, *gone)) if gone else job
