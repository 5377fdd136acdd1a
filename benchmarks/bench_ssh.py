"""Machines of one's own: a run over SSH, its port, and how long it takes to add some.

On three hosts with a real sshd and Docker Engine each (`tests/hosts/bed.py`), beside `ssh` itself:
`ssh host docker run`, `ssh -L`, and three logins at once. Run by `make bench`.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter, sleep

from benchmarks import ground
from benchmarks.table import Line, medians, print_table
from dstack_engine.client import Client
from dstack_engine.decisions.instances import is_ready
from dstack_engine.records.offers import OfferId
from dstack_engine.spec.configurations import TaskConfiguration
from dstack_engine.spec.fleets import FleetConfiguration
from dstack_engine.spec.parsing import configuration_from_dict, parse_configuration
from tests.hosts import images
from tests.hosts.bed import Bed
from tests.hosts.bed_host import BedHost

#: What ours may take longer than `ssh host docker run` over a connection that stands, in seconds.
BAR = 0.25
#: What a machine may take to be ready, in seconds, once it answers.
ADDING_BAR = 3.0
#: A forward of ours is ssh's own: what it may cost more than `ssh -L`.
FORWARD_BAR = 1.15
#: Machines are added and let go so many times.
ADDINGS = 5
#: Bytes that come through a forward in one measurement, and connections made.
DOWNLOAD = 200 << 20
CONNECTIONS = 100

SCRIPT = "echo 'the first line'"
FILE = "download"
SERVER = f"head -c {DOWNLOAD} /dev/zero > {FILE}; exec python3 -m http.server 8000"


def measure() -> Iterator[Line]:
    """Yield the lines of the table."""
    with Bed(3) as bed, ground.engine() as client:
        bed.load_image(images.python())
        yield _adding(client, bed)
        with _fleet(client, bed) as offer, Ssh(bed.hosts[0], bed) as ssh:
            yield from _first_line(client, offer, ssh)
            yield from _forwards(client, offer, ssh)


# Adding machines


def _adding(client: Client, bed: Bed) -> Line:
    ours, peer = medians(lambda: _add(client, bed), lambda: _log_in_everywhere(bed), rounds=ADDINGS)
    return Line(
        "3 machines added: connected, examined, claimed, ready",
        ours,
        "s",
        bar=f"≤ {ADDING_BAR:.0f} s",
        kept=ours <= ADDING_BAR,
        peer=peer,
        peer_name="3 × ssh docker info at once",
    )


def _add(client: Client, bed: Bed) -> float:
    begun = perf_counter()
    client.apply_fleet(_configuration(bed))
    _until(lambda: _ready_machines(client) == len(bed.hosts))
    took = perf_counter() - begun
    client.delete_fleet("bench")
    _until(lambda: not client.fleets())
    return took


def _log_in_everywhere(bed: Bed) -> float:
    begun = perf_counter()
    logins = [
        subprocess.Popen(
            [*_ssh(host, bed), "docker", "info"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for host in bed.hosts
    ]
    for login in logins:
        login.communicate()
        assert login.returncode == 0
    return perf_counter() - begun


@contextmanager
def _fleet(client: Client, bed: Bed) -> Iterator[OfferId]:
    """Yield the offer of the first machine of a fleet that stands."""
    client.apply_fleet(_configuration(bed))
    _until(lambda: _ready_machines(client) == len(bed.hosts))
    try:
        yield client.fleet("bench").instances[0].offer.id
    finally:
        client.delete_fleet("bench")
        _until(lambda: not client.fleets())


def _ready_machines(client: Client) -> int:
    return sum(map(is_ready, client.fleet("bench").instances))


def _configuration(bed: Bed) -> FleetConfiguration:
    hosts = [host.address for host in bed.hosts]
    ssh = {"user": "root", "identity_file": str(bed.identity_file), "hosts": hosts}
    text = json.dumps({"type": "fleet", "name": "bench", "ssh_config": ssh})
    configuration = parse_configuration(text)
    assert isinstance(configuration, FleetConfiguration)
    return configuration


# The bare tool


def _ssh(host: BedHost, bed: Bed, *options: str) -> list[str]:
    trusting = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    quiet = ["-F", "none", "-o", "LogLevel=ERROR", "-i", str(bed.identity_file)]
    return ["ssh", *quiet, *trusting, *options, f"root@{host.address}"]


class Ssh:
    """The bare tool: logins to *host*, over connections of their own or over one that stands."""

    def __init__(self, host: BedHost, bed: Bed) -> None:
        self.host = host
        self._bed = bed
        self._folder = tempfile.TemporaryDirectory(prefix="bench-ssh-")
        self._control = Path(self._folder.name) / "control"

    def __enter__(self) -> Ssh:
        subprocess.run(self.command("-f", "-N", "-M", "-S", str(self._control)), check=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(
            self.command("-S", str(self._control), "-O", "exit"), capture_output=True, check=True
        )
        self._folder.cleanup()

    def command(self, *options: str) -> list[str]:
        """Return the argv of a login."""
        return _ssh(self.host, self._bed, *options)

    def docker_run(self, *, standing: bool) -> list[str]:
        """Return the argv of `docker run` on the machine."""
        options = ("-S", str(self._control)) if standing else ()
        run = f'docker run --rm {images.python().name} bash -c "{SCRIPT}"'
        return [*self.command(*options), run]

    @contextmanager
    def forward(self, address: str, port: int) -> Iterator[int]:
        """Yield a local port that a forward of `ssh -L` leads on."""
        local = _free_port()
        spec = f"127.0.0.1:{local}:{address}:{port}"
        with subprocess.Popen(self.command("-N", "-L", spec)) as process:
            try:
                _until(lambda: _listens(local))
                yield local
            finally:
                process.terminate()


# A run


def _first_line(client: Client, offer: OfferId, ssh: Ssh) -> Iterator[Line]:
    ours, standing, alone = medians(
        lambda: _run(client, offer),
        lambda: ground.time_first_line(ssh.docker_run(standing=True)),
        lambda: ground.time_first_line(ssh.docker_run(standing=False)),
    )
    figure = "-y to first line, a machine by SSH, the client alone"
    yield Line(
        figure,
        ours * 1000,
        "ms",
        bar=f"≤ {BAR * 1000:.0f} ms more",
        kept=ours - standing <= BAR,
        peer=standing * 1000,
        peer_name="docker run, warm ssh",
    )
    yield Line(
        figure, ours * 1000, "ms", bar="", peer=alone * 1000, peer_name="ssh host docker run"
    )


def _run(client: Client, offer: OfferId) -> float:
    name = ground.new_name("ssh")
    listener = ground.Listener(client, name)
    begun = perf_counter()
    ground.submit(client, offer, name, [SCRIPT])
    arrived, _ = next(listener.output())
    ground.await_end(client, name)
    return arrived - begun


# A port


def _forwards(client: Client, offer: OfferId, ssh: Ssh) -> Iterator[Line]:
    name, ours = _serve(client, offer)
    address = _address(ssh.host)
    with ssh.forward(address, 8000) as peers:
        mine, peer = medians(lambda: _connect(ours), lambda: _connect(peers))
        yield Line(
            "a small answer through a forward, new connection each",
            mine * 1000,
            "ms",
            bar=f"≤ {FORWARD_BAR} ×",
            kept=mine <= peer * FORWARD_BAR,
            peer=peer * 1000,
            peer_name="ssh -L",
        )
        mine, peer = medians(lambda: _download(ours), lambda: _download(peers), rounds=ADDINGS)
        yield Line(
            f"{DOWNLOAD >> 20} MB through a forward",
            mine * 1000,
            "ms",
            bar=f"≤ {FORWARD_BAR} ×",
            kept=mine <= peer * FORWARD_BAR,
            peer=peer * 1000,
            peer_name="ssh -L",
        )
    client.stop(name, abort=True)
    ground.await_end(client, name)


def _serve(client: Client, offer: OfferId) -> tuple[str, int]:
    """Start a server on the machine; return its run's name and local port once it answers."""
    name, port = ground.new_name("port"), _free_port()
    task = configuration_from_dict(
        {"type": "task", "name": name, "commands": [SERVER], "ports": [f"{port}:8000"]}
    )
    assert isinstance(task, TaskConfiguration)
    client.submit(task, offers=[offer])
    _until(lambda: _answers(port))
    return name, port


def _address(host: BedHost) -> str:
    """Return the address of the one running container on *host*."""
    [container] = host.docker.api.containers()
    networks = container["NetworkSettings"]["Networks"]
    return str(next(iter(networks.values()))["IPAddress"])


def _connect(port: int) -> float:
    begun = perf_counter()
    for _ in range(CONNECTIONS):
        _ask(port, "HEAD")
    return (perf_counter() - begun) / CONNECTIONS


def _download(port: int) -> float:
    begun = perf_counter()
    assert _ask(port, "GET") == DOWNLOAD
    return perf_counter() - begun


def _ask(port: int, method: str) -> int:
    """Return how many bytes the answer's body has."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, f"/{FILE}")
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    size = 0
    while block := answer.read(1 << 20):
        size += len(block)
    connection.close()
    return size


def _answers(port: int) -> bool:
    try:
        _ask(port, "HEAD")
    except (OSError, http.client.HTTPException):
        return False
    return True


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _until(holds: Callable[[], bool], patience: float = 60.0) -> None:
    deadline = monotonic() + patience
    while not holds():
        if monotonic() > deadline:
            raise TimeoutError(f"waited {patience:.0f} s")
        sleep(0.01)


def main() -> None:
    """Print this benchmark's lines."""
    print_table(measure())


if __name__ == "__main__":
    main()
