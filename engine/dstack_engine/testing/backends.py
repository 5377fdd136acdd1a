"""A backend that rents machines which do not exist, for tests of whatever rents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dstack_engine.errors import NoCapacity
from dstack_engine.records.instances import InstanceName, Machine
from dstack_engine.records.offers import Offer, OfferId
from dstack_engine.testing.conditions import Failures


class FakeBackend:
    """Rents machines that do not exist.

    A machine is ready after `boots_after` descriptions; offers in `sold_out` cannot be had.
    """

    def __init__(
        self, name: str = "fake", offers: Iterable[Offer] = (), *, boots_after: int = 0
    ) -> None:
        self.name = name
        self.offered = list(offers)
        self.boots_after = boots_after
        self.sold_out: set[OfferId] = set()
        self.failures = Failures()
        #: Every call as (verb, machine's name), in order.
        self.calls: list[tuple[str, str]] = []
        self.machines: dict[InstanceName, Machine] = {}
        self._looks: dict[InstanceName, int] = {}

    def offers(self) -> Iterable[Offer]:
        """Return the offers given."""
        self._call("offers", "")
        return list(self.offered)

    def create(self, offer: Offer, name: InstanceName) -> Machine:
        """Return the machine of that name, made on the first call."""
        self._call("create", name)
        if name not in self.machines:
            if offer.id in self.sold_out:
                raise NoCapacity(self.name, offer.instance_type)
            ready = self.boots_after == 0
            self.machines[name] = Machine(name, offer.shape, ready, address="127.0.0.1")
        return self.machines[name]

    def describe(self, name: InstanceName) -> Machine | None:
        """Return the machine, ready once it was looked at often enough."""
        self._call("describe", name)
        machine = self.machines.get(name)
        if machine is None:
            return None
        self._looks[name] = self._looks.get(name, 0) + 1
        machine = replace(machine, ready=self._looks[name] >= self.boots_after)
        self.machines[name] = machine
        return machine

    def terminate(self, name: InstanceName) -> None:
        """Forget the machine."""
        self._call("terminate", name)
        self.machines.pop(name, None)

    def _call(self, verb: str, name: str) -> None:
        self.calls.append((verb, name))
        self.failures.meet(verb)
