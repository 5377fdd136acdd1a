"""An instance: our record of a machine. Written by the instance loop alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NewType

from dstack_engine.enums import StrEnum
from dstack_engine.records.machines import Examination, SshTarget
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
    #: The fleet that it belongs to, and its number there.
    fleet: str | None = None
    number: int = 0
    #: How it is reached; None on this computer.
    ssh: SshTarget | None = None
    #: The address by which its like reach it, where its owner wrote one.
    internal_ip: str | None = None
    #: The network that it shares with its like (``10.0.0.0/24``), where its owner wrote one.
    network: str | None = None
    #: Into how many equal parts it is split for several jobs; "auto": one a GPU, else one a CPU.
    blocks: int | Literal["auto"] = 1
    #: What was found when somebody looked into it last.
    examination: Examination | None = None
    #: Since when it does not answer, and why; None while it does.
    unreachable_since: datetime | None = None
    unreachable_why: str | None = None
    #: Somebody wished it gone.
    delete_requested_at: datetime | None = None
    #: It is to be let go without being asked: it will never answer again.
    delete_forced: bool = False

    @property
    def finished(self) -> bool:
        """Tell whether the machine is ours no more."""
        return self.status is InstanceStatus.TERMINATED

    @property
    def reachable(self) -> bool:
        """Tell whether it answered when it was asked last."""
        return self.unreachable_since is None


@dataclass(frozen=True)
class Machine:
    """What a backend says exists."""

    name: InstanceName
    shape: MachineShape
    ready: bool
    #: Where its host answers: None on this computer.
    address: str | None = None
