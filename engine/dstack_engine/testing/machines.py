"""Machines reached by SSH that do not exist, for tests of whatever uses them."""

from __future__ import annotations

from dataclasses import replace

from dstack_engine.errors import HostUnreachable
from dstack_engine.hosts.base import Host
from dstack_engine.records.findings import Finding
from dstack_engine.records.instances import Instance
from dstack_engine.records.machines import Examination
from dstack_engine.records.offers import MachineShape
from dstack_engine.testing.conditions import FakeClock
from dstack_engine.testing.hosts import FakeHost, FakeMachine


class FakeMachines:
    """Machines by host name, each with a `FakeHost`; those in `silent` do not answer.

    What `shapes` says of a host name is what an examination finds there.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, MachineShape] = {}
        #: Why each of these does not answer.
        self.silent: dict[str, str] = {}
        self.hosts: dict[str, FakeHost] = {}
        #: Every call as (verb, instance's name), in order.
        self.calls: list[tuple[str, str]] = []
        self._clock = FakeClock()

    def examine(self, instance: Instance) -> Examination:
        """Find what `shapes` says, or that it does not answer."""
        self.calls.append(("examine", instance.name))
        name = _host_name(instance)
        found = Examination(self._clock(), ())
        if name in self.silent:
            trouble = Finding(False, "ssh", self.silent[name], "Switch it on.", fatal=True)
            return replace(found, findings=(trouble,))
        return replace(
            found,
            findings=(Finding(True, "ssh", "answers"),),
            shape=self.shapes.get(name, MachineShape(4, 16.0, 100.0)),
            host_key=f"SHA256:{name}",
            boot_id="1",
            docker="20.10.24",
            internal_ip=name,
        )

    def ping(self, instance: Instance) -> str | None:
        """Return what `silent` says."""
        self.calls.append(("ping", instance.name))
        return self.silent.get(_host_name(instance))

    def host(self, instance: Instance) -> Host:
        """Return the machine's fake host, made on the first call."""
        return self.host_named(_host_name(instance))

    def host_named(self, hostname: str) -> FakeHost:
        """Return the fake host of the machine of that host name."""
        return self.hosts.setdefault(hostname, FakeHost(FakeMachine()))

    def silence(self, hostname: str, why: str = "Connection timed out") -> None:
        """Let the machine not answer from now on; what runs there runs on."""
        self.silent[hostname] = why
        self.host_named(hostname).set_unreachable(True)

    def answer(self, hostname: str) -> None:
        """Let the machine answer again."""
        self.silent.pop(hostname, None)
        self.host_named(hostname).set_unreachable(False)

    def release(self, instance: Instance) -> None:
        """Remove its containers."""
        self.calls.append(("release", instance.name))
        if _host_name(instance) in self.silent:
            raise HostUnreachable(self.silent[_host_name(instance)])
        host = self.host(instance)
        for container in host.list_containers({}):
            host.remove(container)

    def forget(self, instance: Instance) -> None:
        """Do nothing but be counted."""
        self.calls.append(("forget", instance.name))

    def close(self) -> None:
        """Do nothing."""


def _host_name(instance: Instance) -> str:
    return instance.ssh.hostname if instance.ssh is not None else ""
