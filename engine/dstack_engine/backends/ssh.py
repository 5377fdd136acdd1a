"""The backend `ssh`: machines of one's own, at $0, as their fleets' instances tell of them.

Nothing is rented: the fleet loop makes the instances, the instance loop looks into the machines,
and what they found is offered here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from dstack_engine.errors import NoCapacity
from dstack_engine.records.instances import Instance, InstanceName, InstanceStatus, Machine
from dstack_engine.records.offers import Availability, Offer

#: The backend's name.
SSH = "ssh"

_READY = frozenset({InstanceStatus.IDLE, InstanceStatus.BUSY})


class SshBackend:
    """The machines of all fleets. Every method may be called from any thread."""

    name = SSH

    def __init__(self, instances: Callable[[], Iterable[Instance]]) -> None:
        """Offer the machines among *instances*, which yields all that are not gone."""
        self._instances = instances

    def offers(self) -> Iterable[Offer]:
        """Return each machine that was looked into and can be used, in its fleet's order.

        One that does not answer is `NOT_AVAILABLE`; one that a job holds some of is `BUSY`, though
        there may be room in other parts of it.
        """
        for instance in self._instances():
            stands = instance.status in _READY and instance.delete_requested_at is None
            if instance.ssh is not None and stands:
                yield _offer(instance)

    def create(self, offer: Offer, name: InstanceName) -> Machine:
        """Return the machine that *offer* is; raise `NoCapacity` where it is ours no more."""
        machine = self.describe(InstanceName(offer.instance or ""))
        if machine is None:
            raise NoCapacity(SSH, offer.id)
        return replace(machine, name=name)

    def describe(self, name: InstanceName) -> Machine | None:
        """Return the machine as it was when somebody looked last; None where it is not ours."""
        for instance in self._instances():
            if instance.ssh is not None and instance.name == name:
                ready = instance.status in _READY
                return Machine(
                    name,
                    instance.offer.shape,
                    ready=ready and instance.reachable,
                    address=instance.ssh.hostname,
                )
        return None

    def terminate(self, name: InstanceName) -> None:
        """Do nothing: its fleet lets it go, and the machine stays."""


def _offer(instance: Instance) -> Offer:
    return replace(instance.offer, availability=_availability(instance), remarks=_remarks(instance))


def _availability(instance: Instance) -> Availability:
    if not instance.reachable:
        return Availability.NOT_AVAILABLE
    busy = instance.status is InstanceStatus.BUSY
    return Availability.BUSY if busy else Availability.IDLE


def _remarks(instance: Instance) -> tuple[str, ...]:
    """Return what is not as it should be there, though jobs can run."""
    found = instance.examination.findings if instance.examination is not None else ()
    return tuple(finding.text for finding in found if not finding.ok)
