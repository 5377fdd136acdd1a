"""How an instance moves on: this computer, and machines that are reached by SSH. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from dstack_engine.records.findings import Finding
from dstack_engine.records.instances import Instance, InstanceName, InstanceStatus, Machine
from dstack_engine.records.jobs import Job, JobId
from dstack_engine.records.machines import Examination
from dstack_engine.records.offers import MachineShape, Offer

#: Statuses in which jobs may be put on an instance.
READY = frozenset({InstanceStatus.IDLE, InstanceStatus.BUSY})

_LIVING = frozenset({InstanceStatus.PENDING, InstanceStatus.PROVISIONING, *READY})


def name_instance(offer: Offer, job: JobId) -> InstanceName:
    """Return the name of the instance that *job* on *offer* runs on.

    One for this computer; that of the machine where the offer is a machine of ours already.
    """
    if offer.instance is not None:
        return InstanceName(offer.instance)
    if offer.backend == "local":
        return InstanceName("local")
    return InstanceName(f"{job.replace('/', '-')}")


def is_ready(instance: Instance) -> bool:
    """Tell whether a job that has a place on the instance may begin there."""
    return instance.status in READY and instance.reachable


def is_same_machine(instance: Instance, job: Job) -> bool:
    """Tell whether *instance* is, and still is, the machine that *job* was placed on."""
    return (
        job.offer is not None
        and instance.status is not InstanceStatus.TERMINATED
        and (instance.name, instance.offer.instance_type)
        == (job.offer.instance, job.offer.instance_type)
    )


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


@dataclass(frozen=True)
class MachineSighting:
    """What was seen of a machine reached by SSH; what was not looked at stays None or False."""

    #: A job holds some of it.
    busy: bool = False
    #: What a look into it found that ended just now.
    examination: Examination | None = None
    #: It answered when it was asked just now.
    answered: bool = False
    #: Why it does not answer, asked often enough to say so.
    silent: str | None = None
    #: Nothing of ours is left on it.
    released: bool = False
    #: Why it could not be let go just now.
    held: str | None = None


def advance_machine(instance: Instance, seen: MachineSighting, now: datetime) -> Instance:
    """Return a machine's instance as it should be written now; the same where nothing changed.

    A machine that was looked into and cannot be used stays `provisioning` with its findings. One
    that does not answer keeps its status: what runs there is not lost yet.
    """
    if instance.status is InstanceStatus.TERMINATED:
        return instance
    if instance.delete_requested_at is not None or instance.status is InstanceStatus.TERMINATING:
        return _leave(instance, seen, now)
    if seen.answered:
        instance = _back(instance)
    elif seen.silent is not None:
        since = instance.unreachable_since or now
        instance = replace(instance, unreachable_since=since, unreachable_why=seen.silent)
    if seen.examination is not None:
        instance = _examined(instance, seen.examination)
    return _stand(instance, seen.busy, now)


def _leave(instance: Instance, seen: MachineSighting, now: datetime) -> Instance:
    if instance.status is not InstanceStatus.TERMINATING:
        return replace(instance, status=InstanceStatus.TERMINATING, since=now, reason=None)
    if seen.released:
        return replace(instance, status=InstanceStatus.TERMINATED, since=now, reason=None)
    if seen.held is not None:
        return replace(instance, reason=seen.held)
    return instance


def _back(instance: Instance) -> Instance:
    """Return the instance of a machine that answers.

    What a look found that was taken while it was silent does not hold any more; the next look is
    due soon.
    """
    if instance.reachable:
        return instance
    known = instance.examination
    if known is not None and instance.status in READY:
        findings = tuple(found for found in known.findings if found.ok or not found.fatal)
        known = replace(known, findings=findings)
    return replace(instance, examination=known, unreachable_since=None, unreachable_why=None)


def _examined(instance: Instance, found: Examination) -> Instance:
    known = instance.examination
    if found.shape is None:
        if known is not None:  # what was found out before stays known
            found = replace(known, at=found.at, findings=found.findings)
        return replace(instance, examination=found)
    blocks = count_blocks(instance, found.shape)
    return replace(
        instance,
        examination=found,
        offer=replace(instance.offer, shape=found.shape, blocks=blocks),
        unreachable_since=None,
        unreachable_why=None,
    )


def _stand(instance: Instance, busy: bool, now: datetime) -> Instance:
    silent = instance.status in READY and not instance.reachable
    if silent:
        status = InstanceStatus.BUSY if busy else InstanceStatus.IDLE
    elif instance.examination is None or not instance.examination.usable:
        status = InstanceStatus.PROVISIONING
    else:
        status = InstanceStatus.BUSY if busy else InstanceStatus.IDLE
    return instance if status is instance.status else replace(instance, status=status, since=now)


def count_blocks(instance: Instance, shape: MachineShape) -> int:
    """Return into how many parts the machine is split; "auto": one a GPU, else one a CPU."""
    if instance.blocks == "auto":
        return len(shape.gpus) or shape.cpus
    return instance.blocks


def trouble_of(instance: Instance) -> str | None:
    """Return in a sentence why nothing can be placed on the machine; None where something can."""
    name = f"{instance.name} ({instance.offer.instance_type})"
    if instance.status is InstanceStatus.TERMINATING:
        return f"{name} is being let go"
    if instance.unreachable_why is not None:
        return f"{name} does not answer: {instance.unreachable_why}"
    if instance.examination is None:
        return f"{name} is being looked into"
    for finding in instance.examination.findings:
        if finding.fatal and not finding.ok:
            return f"{name} cannot be used yet: {finding.text}"
    return None


def doubled(instance: Instance, found: Examination, others: Iterable[Instance]) -> Finding | None:
    """Return the finding for a machine that another instance is already, by another name of it.

    It is the same where host key and boot are the same: copies of a disk share a key, and
    containers a boot. Of the two the one that was there first may be used.
    """
    if found.host_key is None or found.boot_id is None:
        return None
    for other in others:
        known = other.examination
        if other.name == instance.name or known is None or not known.usable:
            continue
        if (known.host_key, known.boot_id) == (found.host_key, found.boot_id):
            return Finding(
                False,
                "once",
                f"is the same machine as {other.name} ({other.offer.instance_type})",
                f"Leave one of the two names out of the fleet's `hosts`: {other.name} has it.",
                fatal=True,
            )
    return None
