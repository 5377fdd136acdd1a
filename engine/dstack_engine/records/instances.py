"""An instance: our record of a machine. Written by the instance loop alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NewType

from dstack_engine.enums import StrEnum
from dstack_engine.records.offers import MachineShape, Offer

#: Carried to the backend, so that asking twice gives one machine.
InstanceName = NewType("InstanceName", str)


class InstanceStatus(StrEnum):
    """Where an instance stands."""

    PENDING = "pending"  #: wanted; the instance loop rents it
    PROVISIONING = "provisioning"  #: rented; moves on when it answers
    IDLE = "idle"  #: ready, and no job holds any of it
    BUSY = "busy"  #: ready, and a job holds some of it
    TERMINATING = "terminating"  #: being given back
    TERMINATED = "terminated"  #: final: the backend says that it is gone


@dataclass(frozen=True)
class Instance:
    """A machine of ours."""

    name: InstanceName
    backend: str
    offer: Offer
    status: InstanceStatus
    since: datetime
    created_at: datetime
    reason: str | None = None


@dataclass(frozen=True)
class Machine:
    """What a backend says exists."""

    name: InstanceName
    shape: MachineShape
    ready: bool
    #: Where its host answers: None on this computer.
    address: str | None = None
