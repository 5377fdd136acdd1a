"""The contract that every backend keeps: rent a machine, look at it, give it back.

Backends know nothing of runs, containers or the store; the instance loop calls them from worker
threads, so they are plain blocking code.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from dstack_engine.records.instances import InstanceName, Machine
from dstack_engine.records.offers import Offer


class Backend(Protocol):
    """One place to rent machines from. Every method may be called again after a crash."""

    name: str

    def offers(self) -> Iterable[Offer]:
        """Return everything this backend would rent now; the mind filters, sorts and explains."""

    def create(self, offer: Offer, name: InstanceName) -> Machine:
        """Ask for a machine and return at once, before it has booted.

        *name* makes the call repeatable: asked twice, the same machine comes back.
        Raises `NoCapacity` when the offer is gone, `BackendError` for anything else.
        """

    def describe(self, name: InstanceName) -> Machine | None:
        """Return the machine as it is now, or ``None`` once it is gone."""

    def terminate(self, name: InstanceName) -> None:
        """Give the machine back; do nothing when it is already gone."""
