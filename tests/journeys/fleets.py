"""A fleet of the bed's hosts under a real engine: applied, waited for, looked at from both ends.

What runs on the hosts is asked of their own Docker Engines, past the engine and the network.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dstack_engine.client import Client
from dstack_engine.decisions.instances import is_ready
from dstack_engine.errors import EngineDown, EngineError
from dstack_engine.records.fleets import FleetView
from dstack_engine.records.instances import Instance
from dstack_engine.records.runs import RunView
from dstack_engine.spec.fleets import FleetConfiguration
from dstack_engine.spec.parsing import parse_configuration
from tests.hosts.bed import Bed
from tests.hosts.bed_host import BedHost
from tests.journeys.engines import EngineProcess, task, until

#: Seconds within which a machine that has gone silent is told of.
NOTICED = 15.0


@dataclass(frozen=True)
class Lab:
    """The fleet *name*: hosts of *bed* under *engine*."""

    engine: EngineProcess
    bed: Bed
    name: str = "lab"

    @property
    def client(self) -> Client:
        """A client of the engine."""
        return self.engine.client

    # --- the fleet ----------------------------------------------------------------------------

    def configuration(
        self, hosts: Sequence[BedHost | dict[str, object]], user: str = "root", **keys: object
    ) -> FleetConfiguration:
        """Return the configuration of a fleet of *hosts*, each a host or its keys."""
        written = [host.address if isinstance(host, BedHost) else host for host in hosts]
        ssh = {"user": user, "identity_file": str(self.bed.identity_file), "hosts": written}
        whole = {"type": "fleet", "name": self.name, "ssh_config": ssh, **keys}
        configuration = parse_configuration(json.dumps(whole))
        assert isinstance(configuration, FleetConfiguration)
        return configuration

    def apply(self, *hosts: BedHost, **keys: object) -> FleetView:
        """Have the fleet be of these hosts, or of all; returns before they are looked into."""
        return self.client.apply_fleet(self.configuration(hosts or self.bed.hosts, **keys))

    def machine(self, host: BedHost) -> Instance:
        """Return what the engine knows of *host*."""
        machines = self.client.fleet(self.name).instances
        return next(one for one in machines if one.ssh and one.ssh.hostname == host.address)

    def ready(self, *hosts: BedHost) -> Lab:
        """Return once jobs can be placed on these hosts, or on all of the fleet."""

        def are_ready() -> bool:
            machines = self._machines(hosts)
            return bool(machines) and all(map(is_ready, machines))

        self.until(are_ready, "machines to be ready")
        return self

    def until_silent(self, host: BedHost, patience: float = NOTICED) -> Instance:
        """Return the machine once it is known not to answer; fail after *patience* seconds."""
        self.until(lambda: not self.machine(host).reachable, f"{host.name} to be missed", patience)
        return self.machine(host)

    def until(self, condition: Callable[[], object], what: str, patience: float = 60.0) -> None:
        """Return once *condition* holds; engines may come and go meanwhile."""

        def holds() -> bool:
            with suppress(EngineDown, EngineError):
                return bool(condition())
            return False

        until(holds, what, self.facts, patience)

    def delete(self) -> None:
        """Let the fleet go; returns once it is gone."""
        self.client.delete_fleet(self.name)
        self.until(lambda: not self.client.fleets(), "the fleet to be gone")

    def _machines(self, hosts: Sequence[BedHost]) -> Sequence[Instance]:
        if hosts:
            return [self.machine(host) for host in hosts]
        return self.client.fleet(self.name).instances

    # --- runs ---------------------------------------------------------------------------------

    def submit(self, text: str, host: BedHost | None = None) -> RunView:
        """Submit the task in *text* to the fleet, or to this host of it."""
        offers = [self.machine(host).offer.id] if host is not None else []
        configuration = task(f"{text}\nfleets: [{self.name}]")
        return self.client.submit(configuration, offers=offers)

    def host_of(self, run: str) -> BedHost:
        """Return where the newest job of *run* has its place."""
        job = self.client.run(run).job
        assert job is not None
        assert job.offer is not None
        return next(h for h in self.bed.hosts if h.address == job.offer.instance_type)

    def waiting(self, run: str) -> str:
        """Return what the newest job of *run* waits for, in words; empty where it does not."""
        job = self.client.run(run).job
        return (job.waiting if job is not None else None) or ""

    def containers(self, *, running: bool = True) -> list[str]:
        """Return the names of containers on all hosts whose power is on."""
        return sorted(
            name for names in self.bed.containers(running=running).values() for name in names
        )

    def facts(self) -> str:
        """Return what is known, for the message of a test that waits in vain."""
        with suppress(EngineDown, EngineError):
            known = [self.client.fleets(), self.client.runs()]
            return f"{known}; the engine's log:\n{self.engine.log_tail()}"
        return f"the engine does not answer; its log:\n{self.engine.log_tail()}"


def seconds(act: Callable[[], object]) -> float:
    """Return how long *act* took."""
    began = time.monotonic()
    act()
    return time.monotonic() - began
