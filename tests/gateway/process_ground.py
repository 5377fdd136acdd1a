"""The ground of tests of the gateway as a process: started by a link, as the engine does it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from dstack_engine.gateway.link import GatewayLink
from dstack_engine.home import Home
from dstack_engine.records.publication import (
    GatewayReport,
    Publication,
    PublishedReplica,
    PublishedService,
)

#: Seconds within which everything here happens, on however busy a computer.
DEADLINE = 60.0
TOKEN = "the-token"


def until(condition: Callable[[], Any], seconds: float = DEADLINE) -> None:
    """Return once *condition* holds."""
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, "it did not come about in time"
        sleep(0.005)


def free_port() -> int:
    """Return a port that nobody has, just now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def lasting_port() -> int:
    """Return a port to begin with that no client's own end of a connection is given meanwhile."""
    return random.randrange(12_000, 32_000)


def workers_of(pid: int) -> list[int]:
    """Return the processes that *pid* has forked."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in children.read_text().split()] if children.exists() else []


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that is dead and not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def a_link(home: Path, port: int = 0, **options: Any) -> GatewayLink:
    """Return a link to the gateway of *home*, which listens where it can."""
    return GatewayLink(Home(home), port=port, **options)


class Gateway:
    """A gateway's process, the engine's link to it, and a client."""

    def __init__(self, home: Path, **options: Any) -> None:
        self.home = home
        self._options = {"port": lasting_port(), **options}
        self._versions = itertools.count(1)
        self._services: dict[str, PublishedService] = {}
        self.reports: list[GatewayReport] = []
        self.link = self.connect()

    def connect(self) -> GatewayLink:
        """Be a new engine: link to the gateway that runs, or to none yet."""
        self.link = a_link(self.home, on_report=self.reports.append, **self._options)
        self.link.start()
        return self.link

    def publish(self, run: str, *ports: int, **told: Any) -> None:
        """Publish a service whose replicas are at *ports*; return once the gateway has it."""
        told.setdefault("auth", False)
        replicas = tuple(
            PublishedReplica(f"{run}-0-{number}/{port}", "127.0.0.1", port)
            for number, port in enumerate(ports)
        )
        self._services[run] = PublishedService(run, f"id-{run}", replicas=replicas, **told)
        self.tell()

    def tell(self) -> None:
        """Publish again what is published, as something newer."""
        version = next(self._versions)
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        self.link.publish(Publication(version, tuple(self._services.values()), (digest,)))
        until(lambda: self.link.report is not None and self.link.report.version == version)

    @property
    def report(self) -> GatewayReport:
        assert self.link.report is not None
        return self.link.report

    @property
    def port(self) -> int:
        assert self.link.port is not None
        return self.link.port

    @property
    def pid(self) -> int:
        return self.report.pid

    def log(self) -> str:
        """Return what the gateway has logged."""
        return (Home(self.home).gateway / "gateway.log").read_text()

    def await_ready(self, run: str, count: int = 1) -> None:
        """Return once *count* replicas of *run* are ready."""

        def ready() -> bool:
            services = [s for s in self.report.services if s.run == run]
            return sum(r.state == "ready" for s in services for r in s.replicas) >= count

        until(ready)

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Return the status and the body of a GET; raises what a lost connection raises."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def close(self) -> None:
        """End the link and the gateway."""
        self.link.stop(gateway_too=True)


class Replica:
    """A replica in this process: each connection is given to *answer* in a thread of its own."""

    def __init__(self, answer: Callable[[socket.socket, bytes], None], port: int = 0) -> None:
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port = int(self._server.getsockname()[1])
        self.requests: list[bytes] = []
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = b""
            while piece := connection.recv(65536):
                head += piece
                if b"\r\n\r\n" not in head:
                    continue
                if b"User-Agent: dstack-gateway" in head:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    break
                self.requests.append(head)
                self._answer(connection, head)
                head = b""
        self._open.discard(connection)

    def die(self) -> None:
        """End as a killed program does: the port is free, and every connection is reset."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                linger = b"\1\0\0\0\0\0\0\0"
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.shutdown(socket.SHUT_RDWR)


def ok(body: bytes = b"hello") -> Callable[[socket.socket, bytes], None]:
    """Answer with 200 and *body*, and keep the connection."""

    def answer(connection: socket.socket, head: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    return answer


@contextlib.contextmanager
def replica(
    answer: Callable[[socket.socket, bytes], None] | None = None, port: int = 0
) -> Iterator[Replica]:
    """A replica for the time of a test."""
    made = Replica(answer or ok(), port)
    try:
        yield made
    finally:
        with contextlib.suppress(OSError):
            made.die()


def kill(pid: int) -> None:
    """End a process as the kernel does that is out of memory."""
    os.kill(pid, 9)
    until(lambda: not is_alive(pid))
