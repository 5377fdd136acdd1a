"""A fleet: machines that were given one name. Written by the fleet loop alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dstack_engine.enums import StrEnum
from dstack_engine.records.instances import Instance
from dstack_engine.spec.fleets import FleetConfiguration


class FleetStatus(StrEnum):
    """Where a fleet stands; dstack's words."""

    SUBMITTED = "submitted"  #: wanted; the fleet loop makes its instances
    ACTIVE = "active"  #: has its instances, whatever state each is in
    TERMINATING = "terminating"  #: its instances are being let go
    TERMINATED = "terminated"  #: final: none is left


@dataclass(frozen=True)
class Fleet:
    """A named set of machines."""

    name: str
    configuration: FleetConfiguration
    status: FleetStatus
    since: datetime
    created_at: datetime
    #: Somebody wished it gone.
    delete_requested_at: datetime | None = None

    @property
    def finished(self) -> bool:
        """Tell whether nothing moves this fleet any more."""
        return self.status is FleetStatus.TERMINATED


@dataclass(frozen=True)
class FleetView:
    """A fleet as it is shown: with its instances, by number."""

    fleet: Fleet
    instances: tuple[Instance, ...] = ()
