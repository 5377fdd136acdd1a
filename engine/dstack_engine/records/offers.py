"""What could be rented: machines' shapes, offers with their price, and why others were refused.

Backends yield offers, `decisions.placement` chooses among them, the face shows both lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from dstack_engine.enums import StrEnum

#: Names an offer for as long as it exists: ``local/docker``, ``aws/eu-west-1/g5.xlarge/spot``.
OfferId = NewType("OfferId", str)


class HostKind(StrEnum):
    """The means by which a machine runs a job."""

    DOCKER = "docker"  #: containers of a Docker Engine
    PROCESS = "process"  #: plain processes, where there is no Docker Engine


class Availability(StrEnum):
    """Whether an offer can be had now, as far as its backend knows."""

    AVAILABLE = "available"  #: can be rented now
    UNKNOWN = "unknown"  #: the backend does not tell; worth a try
    IDLE = "idle"  #: an instance of ours that stands ready
    BUSY = "busy"  #: an instance of ours, taken at present; the run waits for it
    NO_QUOTA = "no_quota"  #: the account's quota does not allow it
    NOT_AVAILABLE = "not_available"  #: sold out at present


@dataclass(frozen=True)
class Gpu:
    """One GPU of a machine."""

    name: str
    memory_gb: float
    vendor: str = "nvidia"
    #: Known only for machines that we can look into.
    uuid: str | None = None
    compute_capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class MachineShape:
    """What a machine has: CPUs, memory and disk in GB (1 GB = 1024 MB), GPUs."""

    cpus: int
    memory_gb: float
    disk_gb: float | None = None
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class Offer:
    """A kind of machine that a backend would rent now, with its price in USD per hour."""

    id: OfferId
    backend: str
    region: str
    instance_type: str
    host: HostKind
    shape: MachineShape
    price: float
    spot: bool = False
    availability: Availability = Availability.AVAILABLE
    #: What its user should know: defaults that it does not meet, a missing image.
    remarks: tuple[str, ...] = ()
    zone: str | None = None
    #: The instance of ours that this offer is, where it is one already.
    instance: str | None = None
    #: The fleet of that instance.
    fleet: str | None = None
    #: Into how many equal parts that instance is split for several jobs.
    blocks: int = 1


@dataclass(frozen=True)
class Refusal:
    """An offer that does not fit, and each reason why, as a sentence."""

    offer: Offer
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class RefusalCount:
    """How many offers one reason removed: the summary over a large catalog."""

    reason: str
    count: int


@dataclass(frozen=True)
class Plan:
    """The placement shown before it is done."""

    #: What fits, the best first; cut at a limit, `total_offers` counts all.
    offers: tuple[Offer, ...]
    refusals: tuple[Refusal, ...] = ()
    total_offers: int = 0
    total_refused: int = 0
    refused_by: tuple[RefusalCount, ...] = ()
    #: What the author should know whatever is chosen, e.g. a backend that is not configured.
    remarks: tuple[str, ...] = ()
