"""How an instance moves on; and which instance an offer of this computer means. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from dstack_engine.records.instances import Instance, InstanceName, InstanceStatus, Machine
from dstack_engine.records.jobs import JobId
from dstack_engine.records.offers import Offer

#: Statuses in which jobs may be put on an instance.
READY = frozenset({InstanceStatus.IDLE, InstanceStatus.BUSY})

_LIVING = frozenset({InstanceStatus.PENDING, InstanceStatus.PROVISIONING, *READY})


def name_instance(offer: Offer, job: JobId) -> InstanceName:
    """Return the name of the instance that *job* on *offer* runs on: one for this computer."""
    if offer.backend == "local":
        return InstanceName("local")
    return InstanceName(f"{job.replace('/', '-')}")


def advance_instance(
    instance: Instance, machine: Machine | None, busy: bool, now: datetime
) -> Instance:
    """Return the instance as it should be written now; the same one when nothing has changed."""
    if instance.status not in _LIVING:
        return instance
    if machine is None:
        status = InstanceStatus.PENDING
    elif not machine.ready:
        status = InstanceStatus.PROVISIONING
    else:
        status = InstanceStatus.BUSY if busy else InstanceStatus.IDLE
    return instance if status is instance.status else replace(instance, status=status, since=now)
