"""Ports of jobs on machines reached by SSH: forwards to the containers' own addresses.

Nothing is published on the machine. Which ports a container is to have is written on a label of it,
so that after a lost connection or a restart all are opened again. Called by `remote_host` when a
container comes or goes, and by `remote` with every ping.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from dstack_engine.errors import HostUnreachable, PortTaken
from dstack_engine.hosts import docker_wire
from dstack_engine.hosts.base import ContainerSpec
from dstack_engine.hosts.claims import HOME_LABEL
from dstack_engine.hosts.docker_errors import CONNECTION_ERRORS, unreachable
from dstack_engine.records.routes import Route
from dstack_engine.ssh.forwards import Forward, Forwards

logger = logging.getLogger(__name__)

#: ``8080:80,[::1]:9000:9000``: local port and the container's, before them the address where it is
#: not loopback.
ROUTES_LABEL = "dstack-jupyter.routes"
#: Seconds for the list of containers.
TIMEOUT = 4.0

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Routed:
    """A running container with routes, and its address as its machine sees it."""

    name: str
    address: str
    routes: tuple[Route, ...]

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """Return what leads to it."""
        return tuple(
            Forward(route.address, route.local_port, self.address, route.container_port)
            for route in self.routes
        )


class RouteKeeper:
    """Opens and closes the forwards of one machine's containers; for many threads.

    *url* is its Docker Engine's, *home* the id of the engine's home whose containers they are.
    """

    def __init__(self, url: str, home: str, forwards: Forwards) -> None:
        self._url = url
        self._home = home
        self._forwards = forwards
        #: Those whose port somebody else has, told once.
        self._taken: set[Forward] = set()

    def keep(self, timeout: float = TIMEOUT) -> None:
        """Open what running containers lack, close what belongs to none.

        Raises `HostUnreachable` when the Docker Engine does not answer within *timeout* seconds.
        """
        # Looked at first: a forward is opened after its container was started, so one that is held
        # already and whose container does not run has lost it.
        held = self._forwards.held()
        wanted = {forward: each.name for each in self._ask(timeout) for forward in each.forwards}
        self._forwards.close(forward for forward in held if forward not in wanted)
        for forward, name in wanted.items():
            try:
                self._forwards.open(forward, name)
                self._taken.discard(forward)
            except PortTaken as error:
                if forward not in self._taken:
                    logger.warning("%s is not reached by its port: %s", name, error)
                self._taken.add(forward)

    def open(self, name: str) -> None:
        """Open the forwards of a container; none where it does not run.

        Raises `PortTaken`, `HostUnreachable`.
        """
        for each in self._ask(TIMEOUT):
            if each.name == name:
                for forward in each.forwards:
                    self._forwards.open(forward, name)

    def close(self, name: str) -> None:
        """Close those of a container that does not run any more."""
        with suppress(HostUnreachable):  # they went with the connection
            self._forwards.close_of(name)

    def _ask(self, timeout: float) -> list[Routed]:
        labels = [f"{HOME_LABEL}={self._home}", ROUTES_LABEL]
        filters = json.dumps({"label": labels, "status": ["running"]})
        path = f"/containers/json?filters={quote(filters)}"
        try:
            answer = json.loads(docker_wire.ask(self._url, path, timeout) or b"[]")
        except (*CONNECTION_ERRORS, ValueError) as error:
            raise unreachable(self._url, error) from error
        return [found for each in answer if (found := _routed(each)) is not None]


def labelled(spec: ContainerSpec, home: str) -> ContainerSpec:
    """Return *spec* with its routes on a label, and none for the Docker Engine to publish."""
    labels = {HOME_LABEL: home, **spec.labels}
    if spec.routes:
        labels[ROUTES_LABEL] = ",".join(_in_words(route) for route in spec.routes)
    return replace(spec, labels=labels, routes=())


def read_routes(words: str) -> tuple[Route, ...]:
    """Return the routes of a label."""
    return tuple(_route(each) for each in words.split(",") if each)


def _in_words(route: Route) -> str:
    ports = f"{route.local_port}:{route.container_port}"
    return ports if route.address == _LOOPBACK else f"[{route.address}]:{ports}"


def _route(words: str) -> Route:
    rest, container_port = words.rsplit(":", 1)
    address, _, local_port = rest.rpartition(":")
    return Route(int(local_port), int(container_port), address.strip("[]") or _LOOPBACK)


def _routed(found: dict[str, Any]) -> Routed | None:
    """Return the container that the Docker Engine lists as *found*; None without an address."""
    name, address = _name(found["Names"]), _address(found)
    words = (found.get("Labels") or {}).get(ROUTES_LABEL, "")
    if name is None or address is None:
        return None
    try:
        return Routed(name, address, read_routes(words))
    except ValueError:
        return None  # somebody else wrote that label


def _name(names: Sequence[str]) -> str | None:
    return names[0].lstrip("/") if names else None


def _address(found: dict[str, Any]) -> str | None:
    if (found.get("HostConfig") or {}).get("NetworkMode") == "host":
        return _LOOPBACK
    networks = (found.get("NetworkSettings") or {}).get("Networks") or {}
    addresses = (network.get("IPAddress") for network in networks.values())
    return next((str(each) for each in addresses if each), None)
