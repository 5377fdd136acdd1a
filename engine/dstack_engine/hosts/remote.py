"""The machines reached by SSH: each with its link, its Docker host and its ports.

Made once by the engine, which calls it from the loops' threads.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic

from dstack_engine.errors import HostKeyChanged, HostUnreachable
from dstack_engine.home import Home, write_private
from dstack_engine.hosts.claims import HOME_LABEL, Owner, claim, owner_here, unclaim
from dstack_engine.hosts.docker import DockerHost
from dstack_engine.hosts.docker_layers import LayeredImages
from dstack_engine.hosts.logs import DEFAULT_CAP
from dstack_engine.hosts.machine_examination import examine_machine, needs_new_login
from dstack_engine.hosts.remote_host import RemoteDockerHost, RemoteGpus
from dstack_engine.hosts.remote_routes import RouteKeeper
from dstack_engine.records.findings import Finding
from dstack_engine.records.instances import Instance
from dstack_engine.records.machines import Examination, SshTarget
from dstack_engine.ssh.configs import USER_CONFIG
from dstack_engine.ssh.links import Link
from dstack_engine.ssh.trust import KnownHosts
from dstack_engine.unix_sockets import ShortPath

logger = logging.getLogger(__name__)

#: Seconds that an examination waits for a connection; the rest of its 30 is for looking.
EXAMINE_PATIENCE = 12.0
#: Within so many seconds of its beginning an examination that lost its connection begins anew.
EXAMINE_AGAIN = 2.0
#: Seconds that a ping may take, and how much of that is for a new connection.
PING_TIMEOUT = 5.0
PING_PATIENCE = 4.0
#: Seconds that giving a machine back waits for a connection.
RELEASE_PATIENCE = 20.0


class RemoteMachines:
    """See `hosts.base.Machines`; what belongs to connections lies in the home's folder `ssh`.

    *log_cap* and *on_output* are those of the hosts; *user_config* is the user's own configuration
    of ssh. Making it connects to nothing.
    """

    def __init__(
        self,
        home: Home,
        *,
        log_cap: int = DEFAULT_CAP,
        on_output: Callable[[], None] = lambda: None,
        user_config: Path = USER_CONFIG,
    ) -> None:
        self._home = home
        self._log_cap = log_cap
        self._on_output = on_output
        self._user_config = user_config
        known = Path("~/.ssh/known_hosts").expanduser()
        self._known_hosts = KnownHosts(home.ssh / "known_hosts", (known,))
        self._lock = threading.Lock()
        self._machines: dict[str, RemoteMachine] = {}

    def examine(self, instance: Instance) -> Examination:
        """Look into the machine; never raises for what is wrong with it."""
        try:
            machine = self._machine(instance)
            found = machine.examine(instance.network)
        except HostUnreachable as error:
            fix = _trust_command(instance) if isinstance(error, HostKeyChanged) else None
            finding = Finding(False, "ssh", error.message, error.hint or fix, fatal=True)
            return Examination(datetime.now(timezone.utc), (finding,))
        return replace(found, host_key=machine.link.host_key())

    def ping(self, instance: Instance) -> str | None:
        """Return why its Docker Engine does not answer; reaches it anew where that is needed."""
        return self._machine(instance).ping()

    def host(self, instance: Instance) -> RemoteDockerHost:
        """Return the host on that machine."""
        return self._machine(instance).host

    def release(self, instance: Instance) -> None:
        """Take away all that is ours from the machine and this computer."""
        self._machine(instance).release()
        with self._lock:
            self._machines.pop(instance.name, None)

    def forget(self, instance: Instance) -> None:
        """Close the connection and forget the pinned host key; the machine is not asked."""
        self._machine(instance).link.forget_key()

    def close(self) -> None:
        """End what belongs to this process only: connections stay, and are taken up again."""
        with self._lock:
            for machine in self._machines.values():
                machine.close()
            self._machines.clear()

    def _machine(self, instance: Instance) -> RemoteMachine:
        if instance.ssh is None:
            raise HostUnreachable(f"nothing says how the machine {instance.name} is reached by SSH")
        with self._lock:
            machine = self._machines.get(instance.name)
            if machine is None:
                machine = self._made(instance.name, instance.ssh)
                self._machines[instance.name] = machine
        machine.link.retarget(instance.ssh)
        return machine

    def _made(self, name: str, target: SshTarget) -> RemoteMachine:
        self._home.ssh.mkdir(mode=0o700, parents=True, exist_ok=True)
        link = Link(
            self._home.ssh,
            name,
            target,
            known_hosts=self._known_hosts,
            user_config=self._user_config,
        )
        return RemoteMachine(
            link, owner_here(self._home.id), log_cap=self._log_cap, on_output=self._on_output
        )


class RemoteMachine:
    """One machine: the link to it, and what goes over that. For many threads."""

    def __init__(
        self, link: Link, owner: Owner, *, log_cap: int, on_output: Callable[[], None]
    ) -> None:
        self.link = link
        self._owner = owner
        self._open = contextlib.ExitStack()
        path = self._open.enter_context(ShortPath(link.docker_socket))
        #: Where its Docker Engine answers in this process.
        self.docker_url = f"unix://{path}"
        self._layers = LayeredImages(self.docker_url, owner.home)
        self._docker = DockerHost(
            self.docker_url,
            log_cap=log_cap,
            on_output=on_output,
            gpu_usage=RemoteGpus(link).usage,
            forwarded=True,
            layers=self._layers,
        )
        self._routes = RouteKeeper(self.docker_url, owner.home, link.forwards)
        self.host = RemoteDockerHost(link, self._docker, self._routes, owner.home)
        #: Whether it has still to be seen that nobody else took it while we were away.
        self._claim_due = True
        link.on_connected = self._connected

    # What an examination needs; see `machine_examination.MachineLink`

    def run_script(self, text: str, timeout: float) -> str:
        """Run *text* by `sh` on the machine; return what it printed."""
        return self.link.run_script(text, timeout)

    def try_forward(self, address: str, port: int) -> str | None:
        """Tell why a port of the machine cannot be forwarded; None where it can."""
        return self.link.try_forward(address, port)

    def examine(self, network: str | None) -> Examination:
        """Look into the machine now, which shares *network* with others, if any.

        Raises `HostUnreachable`.
        """
        began = monotonic()
        while True:
            self.link.reach(EXAMINE_PATIENCE, now=True)
            try:
                found = self._look(network)
            except HostUnreachable as error:
                lost = self.link.lost()
                # A connection may have been dead already, and nobody had noticed.
                if lost is None or monotonic() - began > EXAMINE_AGAIN:
                    raise (lost or error) from error
            else:
                if needs_new_login(found):
                    self.link.drop()
                return found

    def _look(self, network: str | None) -> Examination:
        marked = self._marked
        self._mark()
        found = examine_machine(self, self._owner, network=network)
        claimed = any(finding.subject == "claim" and finding.ok for finding in found.findings)
        if not claimed and not marked:
            self._mark_file.unlink(missing_ok=True)
        return found

    def ping(self) -> str | None:
        """Return why its Docker Engine does not answer, or is not ours any more."""
        deadline = monotonic() + PING_TIMEOUT
        try:
            self.link.reach(PING_PATIENCE)
            self.link.trim_log()
            self._routes.keep(max(deadline - monotonic(), 1.0))
            return self._foreign_claim()
        except HostUnreachable as error:
            lost = self.link.lost()
            if (
                lost is None
                and self.host.transferring
                and isinstance(error.__cause__, TimeoutError)
            ):
                return None  # the answer waits behind what is sent; a dead peer would be noticed
            words = (lost or error).message
            return words.replace(self.docker_url, self.link.target.text)

    def release(self) -> None:
        """Remove containers, claim and connection. Raises `HostUnreachable`.

        A machine that was never claimed has nothing of ours, and is not asked.
        """
        if self._marked:
            self.link.reach(RELEASE_PATIENCE, now=True)
            for name in self.host.list_containers({HOME_LABEL: self._owner.home}):
                self.host.remove(name)
            self._layers.remove_all()
            unclaim(self.docker_url, self._owner)
        self._mark_file.unlink(missing_ok=True)
        self.link.end()
        self.close()

    def close(self) -> None:
        """Let go of what belongs to this process."""
        self._open.close()

    @property
    def _mark_file(self) -> Path:
        return self.link.config.with_suffix(".claimed")

    @property
    def _marked(self) -> bool:
        """Tell whether this machine was, or was about to be, claimed by an engine of this home."""
        try:
            return self._mark_file.read_text() == self.link.target.hostname
        except FileNotFoundError:
            return False

    def _mark(self) -> None:
        write_private(self._mark_file, self.link.target.hostname.encode())

    def _connected(self) -> None:
        """Open all forwards again: a new connection has none, and a taken-up one perhaps old."""
        self._claim_due = True
        try:
            self._routes.keep()
        except HostUnreachable as error:
            logger.debug("%s: its ports wait for its Docker Engine: %s", self.link.target, error)

    def _foreign_claim(self) -> str | None:
        if not self._claim_due:
            return None
        self._mark()
        finding = claim(self.docker_url, self._owner)
        self._claim_due = not finding.ok
        return None if finding.ok else f"{self.link.target.text} {finding.text}"


def _trust_command(instance: Instance) -> str:
    assert instance.ssh is not None
    return f"%dstack fleet trust {instance.fleet} {instance.ssh.hostname}"
