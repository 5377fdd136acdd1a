"""The network of a bed of hosts: a switch in a namespace of its own, a cable to each host.

No frame leaves it: hosts have no route but to each other and to this computer, which forwards
nothing for them. The computer's own Docker Engine, whose rules would see the frames of a bridge
beside it, never meets the switch. Used by `tests.hosts.bed`; needs root.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from tests.hosts.commands import NoGround, output

#: Networks 10.78.0.0/24 and up, one for each bed.
NETWORK = "10.78"


class Network:
    """The network of bed *number*: ``10.78.NUMBER.0/24``, in which this computer has ``.1``."""

    def __init__(self, number: int) -> None:
        self.name = f"djb{number}"
        self._prefix = f"{NETWORK}.{number}"
        self._switch = f"{self.name}-sw"

    @property
    def own_address(self) -> str:
        """This computer's address in it."""
        return f"{self._prefix}.1"

    def address(self, index: int) -> str:
        """Return the address of host *index*, from 1."""
        return f"{self._prefix}.{10 + index}"

    def namespace(self, host: str) -> str:
        """Return the name of the network namespace of *host*."""
        return f"{self.name}-{host}"

    def make(self) -> None:
        """Make the switch and this computer's cable to it."""
        if output(["ip", "-4", "-o", "address", "show", "to", f"{self._prefix}.0/24"]):
            raise NoGround(f"this computer has an address in {self._prefix}.0/24 already")
        _ip(
            f"netns add {self._switch}",
            f"link add {self.name} type veth peer name up0 netns {self._switch}",
            f"address add {self.own_address}/24 dev {self.name}",
            f"link set {self.name} up",
        )
        _ip(
            "link add br0 type bridge",
            "link set br0 up",
            "link set lo up",
            "link set up0 master br0",
            "link set up0 up",
            namespace=self._switch,
        )

    def plug(self, host: str, index: int) -> None:
        """Give *host* a fresh namespace and a cable; its hardware address is always the same.

        A changed one would leave this computer asking the old one for a minute.
        """
        self.unplug(host)
        namespace, port = self.namespace(host), f"p-{host}"
        mac = f"02:78:00:00:00:{10 + index:02x}"
        _ip(f"netns add {namespace}")
        _ip(
            f"link add {port} type veth peer name eth0 address {mac} netns {namespace}",
            f"link set {port} master br0",
            f"link set {port} up",
            namespace=self._switch,
        )
        _ip(
            "link set lo up",
            f"address add {self.address(index)}/24 dev eth0",
            "link set eth0 up",
            namespace=namespace,
        )

    def unplug(self, host: str) -> None:
        """Take away the namespace and the cable of *host*, where there are any."""
        namespace = self.namespace(host)
        if _exists(namespace):
            subprocess.run(
                ["ip", "-n", self._switch, "link", "delete", f"p-{host}"],
                capture_output=True,
                check=False,
            )
            output(["ip", "netns", "delete", namespace])

    def cable(self, host: str, *, connected: bool) -> None:
        """Pull or put back the cable of *host*."""
        _ip(f"link set p-{host} {'up' if connected else 'down'}", namespace=self._switch)

    def drop(self, host: str, source: str, *, dropped: bool) -> None:
        """Let *host* lose, or not, all packets that come from the address *source*.

        In the first table that they meet: those for published ports pass no other.
        """
        rule = ["PREROUTING", "-t", "mangle", "-i", "eth0", "-s", source, "-j", "DROP"]
        command = ["nsenter", f"--net=/run/netns/{self.namespace(host)}", "iptables", "-w"]
        output([*command, "-I" if dropped else "-D", *rule])

    def limit(self, host: str, rate: str | None) -> None:
        """Let the cable of *host* carry *rate* (``8mbit``) at most, each way; None: no limit."""
        ends = ((self._switch, f"p-{host}"), (self.namespace(host), "eth0"))
        for namespace, device in ends:
            command = ["tc", "-n", namespace, "qdisc"]
            if rate is None:
                output([*command, "delete", "dev", device, "root"])
            else:
                bucket = ["tbf", "rate", rate, "burst", "32kb", "latency", "400ms"]
                output([*command, "replace", "dev", device, "root", *bucket])

    def destroy(self) -> None:
        """End what runs in the bed's namespaces and take these away, an earlier session's too."""
        names = [path.name for path in Path("/run/netns").glob(f"{self.name}-*")]
        for name in names:
            for pid in output(["ip", "netns", "pids", name]).split():
                end(int(pid))
        for name in names:
            output(["ip", "netns", "delete", name])
        subprocess.run(["ip", "link", "delete", self.name], capture_output=True, check=False)


def end(pid: int) -> None:
    """Kill *pid* and return when it is gone; one that nobody has reaped is gone as well."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state in "ZX":
            return
        time.sleep(0.01)
    raise NoGround(f"process {pid} cannot be ended")


def _exists(namespace: str) -> bool:
    return Path("/run/netns", namespace).exists()


def _ip(*lines: str, namespace: str | None = None) -> None:
    """Run lines of `ip` in one process."""
    inside = ["-n", namespace] if namespace else []
    done = subprocess.run(
        ["ip", *inside, "-batch", "-"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NoGround(f"ip failed: {done.stderr.strip()[-500:]}")
