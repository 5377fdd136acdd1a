"""A witness outside of the jobs: every command that starts reports to it, once.

What is written in a job's own folder could go with it; what a command told a socket of the test
has happened. It answers with how many reports of that name there have been.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections import Counter

import docker


def computers_address() -> str:
    """Return this computer's address as containers in Docker's own network see it."""
    with contextlib.closing(docker.from_env()) as client:
        options = client.networks.get("bridge").attrs["IPAM"]["Config"][0]
    return str(options.get("Gateway") or ipaddress.ip_network(options["Subnet"])[1])


class Witness:
    """Listens on *address* and counts reports by name. Use as a context manager."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._socket = socket.create_server((address, 0))
        self._lock = threading.Lock()
        self._reports: Counter[str] = Counter()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def report(self, name: str) -> str:
        """Return the command by which a job reports as *name*, leaving the count in `$count`."""
        address, port = self._socket.getsockname()
        return (
            f"exec 3<>/dev/tcp/{address}/{port}; echo {name} >&3; IFS= read -r count <&3; exec 3>&-"
        )

    def count(self, name: str) -> int:
        """Return how often *name* was reported."""
        with self._lock:
            return self._reports[name]

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rw") as file:
                name = file.readline().strip()
                with self._lock:
                    self._reports[name] += 1
                    count = self._reports[name]
                file.write(f"{count}\n")
