"""What every reconciler works with: the store, the hands, the clock and the bell, in one value.

Made by `engine`; the loops find each other only by their names here, to wake one another.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dstack_engine.backends.registry import Registry
from dstack_engine.decisions import routes
from dstack_engine.decisions.instances import is_same_machine
from dstack_engine.decisions.ownership import LOCAL
from dstack_engine.decisions.scripts import finds_its_port
from dstack_engine.errors import HostUnreachable
from dstack_engine.files.blobs import BlobStore
from dstack_engine.home import Home
from dstack_engine.hosts.base import Host, Machines
from dstack_engine.live import Live
from dstack_engine.reconcilers.loop import (
    Activities,
    Checkpoint,
    Clock,
    Loop,
    no_checkpoint,
    utc_now,
)
from dstack_engine.records.instances import Instance
from dstack_engine.records.jobs import Job
from dstack_engine.records.offers import HostKind, Offer
from dstack_engine.records.publication import GatewayReport, Publication, ServiceReport
from dstack_engine.records.routes import Route
from dstack_engine.settings import Settings
from dstack_engine.spec.configurations import Runnable, ServiceConfiguration, TaskConfiguration
from dstack_engine.store.store import Store


class Gateway(Protocol):
    """The gateway as the engine holds it: `gateway.link.GatewayLink`, or a fake of it."""

    @property
    def report(self) -> GatewayReport | None:
        """What it saw of the traffic, told last; None while none tells anything."""

    @property
    def port(self) -> int | None:
        """Where it listens, on loopback; None while none runs."""

    @property
    def trouble(self) -> str | None:
        """Why none runs though one is wanted, in a sentence."""

    def start(self) -> None:
        """Look for one that runs already, and listen to it; may be called once."""

    def publish(self, publication: Publication) -> None:
        """Tell it everything anew; never blocks. Starts one when there is anything to serve."""

    def stop(self, *, gateway_too: bool = False) -> None:
        """Listen no more; the gateway serves on unless it is to end, too. May be called twice."""


def hear_nothing(_report: GatewayReport) -> None:
    """Do nothing with what a gateway tells: nobody listens yet."""


def sweep_nothing(_machine: Instance) -> None:
    """Leave a machine as it is: nobody keeps house."""


@dataclass
class World:
    """The engine's parts, as its loops see them."""

    home: Home
    settings: Settings
    store: Store
    live: Live
    blobs: BlobStore
    #: This computer's own.
    hosts: Mapping[HostKind, Host]
    #: Those reached by SSH.
    machines: Machines
    backends: Registry
    gateway: Gateway
    #: Tells whether a local port is in use by anything on this computer.
    port_taken: Callable[[int], bool]
    #: The lowest port that this user's programs may listen on.
    lowest_port: int = 1
    clock: Clock = utc_now
    checkpoint: Checkpoint = no_checkpoint
    activities: Activities = field(default_factory=Activities)
    loops: dict[str, Loop[str]] = field(default_factory=dict)
    #: Called by the gateway's link with every report, on its thread.
    heed: Callable[[GatewayReport], None] = hear_nothing
    #: Ends what must not run any more on a machine that answers again; housekeeping's.
    sweep: Callable[[Instance], None] = sweep_nothing

    def host_of(self, job: Job) -> Host:
        """Return the host that runs *job*, which has a place.

        Raises `HostUnreachable` where its machine is ours no more.
        """
        machine = self.machine_of(job)
        if machine is not None:
            return self.machines.host(machine)
        assert job.offer is not None, f"job {job.id} has no offer"
        return self.hosts[job.offer.host]

    def machine_of(self, job: Job) -> Instance | None:
        """Return the machine reached by SSH that *job* has a place on; None on this computer.

        Raises `HostUnreachable` where that machine is ours no more, though another may have its
        name by now.
        """
        assert job.offer is not None, f"job {job.id} has no offer"
        if job.offer.instance is None:
            return None
        found = self.store.instance(job.offer.instance)
        known = found.record if found is not None else None
        if known is None or not is_same_machine(known, job):
            host = job.offer.instance_type
            raise HostUnreachable(f"the machine {job.offer.instance} ({host}) is ours no more")
        return known

    def host_at(self, offer: Offer) -> Host | None:
        """Return the host that *offer* is run by; None where it would have to be rented.

        Raises `HostUnreachable` for a machine that is ours no more.
        """
        if offer.instance is None:
            return self.hosts.get(offer.host)
        found = self.store.instance(offer.instance)
        if found is None or found.record.finished:
            raise HostUnreachable(f"the machine {offer.instance} is ours no more")
        return self.machines.host(found.record)

    def wake(self, loop: str, key: str) -> None:
        """Have *loop* look at *key* soon."""
        self.loops[loop].wake(key)

    def list_offers(self) -> list[Offer]:
        """Return what every configured backend would rent now."""
        return self.backends.list_offers()[0]

    def traffic_of(self, run_id: str) -> ServiceReport | None:
        """Return what the gateway saw last of that service; None where it tells nothing of it."""
        report = self.gateway.report
        services = report.services if report is not None else ()
        return next((one for one in services if one.run_id == run_id), None)

    def choose_routes(
        self, configuration: Runnable, offer: Offer, active: Iterable[Job], *, job: str = ""
    ) -> tuple[Route, ...]:
        """Return the routes of a run's ports on *offer*, beside those of the *active* jobs.

        *job* is the container's name of whom they are for, once that is known. Raises `Conflict`
        for a port that cannot be had.
        """
        ours = {route.local_port: one.run_name for one in active for route in one.routes}
        # At a port for another machine ssh listens, as its user; at this one's the Docker Engine.
        as_root = offer.host is HostKind.DOCKER and offer.backend == LOCAL
        lowest_port = 1 if as_root else self.lowest_port
        if isinstance(configuration, ServiceConfiguration):
            return routes.choose_service_routes(
                configuration.port.container_port,
                offer.host,
                own_ports=finds_its_port(configuration),
                seed=zlib.crc32(f"{self.home.root}/{job}".encode()),
                ours=ours,
                is_taken=self.port_taken,
                lowest_port=lowest_port,
            )
        return routes.choose_routes(
            configuration.ports if isinstance(configuration, TaskConfiguration) else (),
            offer.host,
            ours=ours,
            is_taken=self.port_taken,
            lowest_port=lowest_port,
        )
