"""Forwards through a machine's master: ports and sockets of this computer that lead there.

A master cannot be asked which it holds, so what it was told is written down beside its socket, and
read by the next engine. Called by `links` and by the host on the machine.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dstack_engine.errors import HostUnreachable, PortTaken
from dstack_engine.home import write_private
from dstack_engine.ssh.masters import Master
from dstack_engine.unix_sockets import ShortPath

#: Seconds for the first word through a forward that is tried.
_TRIAL_TIMEOUT = 3.0
#: Of words that ssh says, so many are shown.
_LONGEST = 200


@dataclass(frozen=True, order=True)
class Forward:
    """A port of this computer that leads to an address and port as the machine sees them."""

    address: str
    local_port: int
    host: str
    port: int

    @property
    def text(self) -> str:
        """Return it as `ssh -L` takes it."""
        return f"[{self.address}]:{self.local_port}:[{self.host}]:{self.port}"


class Forwards:
    """What the master of one machine forwards, each forward with its owner. For many threads."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._file = master.folder / f"{master.name}.forwards"
        self._lock = threading.Lock()
        self._held: dict[Forward, str] = {}
        #: Those of which the master has said so to this process.
        self._sure: set[Forward] = set()

    def follow(self, master: Master) -> None:
        """Be told that the machine is reached by another master from now on."""
        with self._lock:
            self._master = master

    def adopt(self) -> None:
        """Take up what an earlier engine had told the master, or was about to tell."""
        with self._lock:
            self._held, self._sure = _read(self._file), set()

    def begin(self) -> None:
        """Be told that a new master is started, which forwards nothing."""
        with self._lock:
            self._held, self._sure = {}, set()
            self._write()

    def held(self) -> dict[Forward, str]:
        """Return the forwards and their owners."""
        with self._lock:
            return dict(self._held)

    def open(self, forward: Forward, owner: str) -> None:
        """Have *forward* opened; nothing when it is open.

        Raises `PortTaken` when the port cannot be listened on, `HostUnreachable`.
        """
        with self._lock:
            if self._held.get(forward) == owner and forward in self._sure:
                return
            self._held[forward] = owner
            self._write()
            try:
                self._tell("forward", forward)  # one that it has already is no trouble
                self._sure.add(forward)
            except PortTaken:
                del self._held[forward]
                self._write()
                raise

    def close(self, forwards: Iterable[Forward]) -> None:
        """Have these closed; connections through them go on. Raises `HostUnreachable`."""
        with self._lock:
            for forward in [one for one in forwards if one in self._held]:
                self._tell("cancel", forward)
                del self._held[forward]
                self._write()

    def close_of(self, owner: str) -> None:
        """Have all of *owner* closed. Raises `HostUnreachable`."""
        self.close([forward for forward, whose in self.held().items() if whose == owner])

    def trial(self, host: str, port: int) -> str | None:
        """Tell, in 5 s at most, why *port* of the machine cannot be forwarded; None where it can.

        What listens there has to speak first.
        """
        path = self._master.folder / f"{self._master.name}.trial"
        forward = f"./{path.name}:[{host}]:{port}"
        before = len(self._master.read_log())
        try:
            answer = self._master.tell("forward", "-L", forward)
            if answer.status != 0:
                return answer.words[:_LONGEST]
            if _greets(path):
                return None
        except (OSError, HostUnreachable) as error:
            return str(error)
        finally:
            with contextlib.suppress(HostUnreachable):
                self._master.tell("cancel", "-L", forward)
            path.unlink(missing_ok=True)
        said = self._master.read_log()[before:].strip().splitlines()
        return said[-1][:_LONGEST] if said else "nothing came through"

    def _tell(self, command: str, forward: Forward) -> None:
        answer = self._master.tell(command, "-L", forward.text)
        if answer.status == 0 or command == "cancel":
            return
        if "Port forwarding failed" in answer.words:
            raise PortTaken(f"port {forward.local_port} is already used on this computer")
        raise HostUnreachable(f"{self._master.target.text} cannot be reached: {answer.words[:200]}")

    def _write(self) -> None:
        lines = (
            f"{f.address} {f.local_port} {f.host} {f.port} {owner}\n"
            for f, owner in sorted(self._held.items())
        )
        write_private(self._file, "".join(lines).encode())


def _greets(path: Path) -> bool:
    """Tell whether what is behind the socket at *path* says something of itself."""
    with socket.socket(socket.AF_UNIX) as client, ShortPath(path) as short:
        client.settimeout(_TRIAL_TIMEOUT)
        client.connect(short)
        return bool(client.recv(1))


def _read(file: Path) -> dict[Forward, str]:
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return {}
    found: dict[Forward, str] = {}
    for line in lines:
        address, local_port, host, port, owner = line.split(" ")
        found[Forward(address, int(local_port), host, int(port))] = owner
    return found
