"""Machines reached by SSH, on the bed: their ports, lost connections, claims, and what is left."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dstack_engine.errors import HostUnreachable, PortTaken
from dstack_engine.home import Home
from dstack_engine.hosts.base import ContainerSpec, Limits
from dstack_engine.hosts.claims import CLAIM
from dstack_engine.hosts.logs import LogReader
from dstack_engine.hosts.remote import RemoteMachines
from dstack_engine.hosts.remote_host import RemoteDockerHost
from dstack_engine.records.instances import Instance
from dstack_engine.records.routes import Route
from dstack_engine.records.sightings import Container
from tests.contracts.hosts import FolderFiles, a_machine
from tests.hosts.bed import Bed
from tests.hosts.bed_host import BedHost
from tests.hosts.engines import wait_for
from tests.ssh.servers import seconds_until

pytestmark = [pytest.mark.docker, pytest.mark.slow]

#: Seconds in which a machine that went silent has to be noticed, and a call has to come back.
NOTICED = 15.0


@pytest.fixture
def box(bed: Bed) -> BedHost:
    return bed.hosts[0]


@pytest.fixture
def instance(box: BedHost) -> Instance:
    return a_machine(box.target())


@pytest.fixture
def machines(home: Path) -> Iterator[RemoteMachines]:
    one = RemoteMachines(Home(home).make())
    yield one
    one.close()


@pytest.fixture
def host(machines: RemoteMachines, instance: Instance) -> RemoteDockerHost:
    return machines.host(instance)


def a_server(
    image: str, *routes: Route, name: str = "web-0-0-1", **changes: object
) -> ContainerSpec:
    """Return a container that serves /etc on port 8000."""
    script = "exec httpd -f -p 8000 -h /etc"
    spec = ContainerSpec(name, {}, script, image=image, routes=routes)
    return replace(spec, **changes)  # type: ignore[arg-type]


def started(host: RemoteDockerHost, home: Path, spec: ContainerSpec) -> str:
    host.start(spec, None, Home(home).logs / spec.name)
    return spec.name


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/passwd", timeout=5) as page:
            return b"root:" in page.read()
    except OSError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def master_of(home: Path) -> int:
    """Return the process that holds the connection."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cwd").readlink() == home / "ssh" and b"-M" in (
                folder / "cmdline"
            ).read_bytes().split(b"\0"):
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("there is no connection")


# A look, a ping


def test_a_machine_is_examined_claimed_and_answers_pings(
    machines: RemoteMachines, instance: Instance, box: BedHost, home: Path
) -> None:
    found = machines.examine(instance)

    assert found.usable, found.findings
    assert found.host_key is not None
    assert found.host_key.startswith("SHA256:")
    assert found.shape is not None
    assert machines.ping(instance) is None
    assert box.docker.volumes.get(CLAIM).attrs["Labels"]["dstack-jupyter.home"] == Home(home).id


def test_a_machine_of_another_engine_is_left_alone(
    machines: RemoteMachines, instance: Instance, tmp_path: Path
) -> None:
    other = RemoteMachines(Home(tmp_path / "other").make())
    other.examine(instance)
    try:
        found = machines.examine(instance)

        assert not found.usable
        assert any(f.subject == "claim" and f.fatal and not f.ok for f in found.findings)
        assert "is used by the engine of" in str(machines.ping(instance))
    finally:
        other.release(instance)

    assert machines.examine(instance).usable
    assert machines.ping(instance) is None


def test_a_machine_without_power_is_told_of_within_seconds(
    machines: RemoteMachines, instance: Instance, box: BedHost
) -> None:
    box.kill()
    began = time.monotonic()

    found = machines.examine(instance)

    assert time.monotonic() - began < NOTICED
    assert [finding.subject for finding in found.findings] == ["ssh"]
    assert "does not answer" in found.findings[0].text


def test_a_changed_host_key_is_told_with_the_command_that_trusts_it(
    machines: RemoteMachines, instance: Instance, box: BedHost, home: Path
) -> None:
    machines.examine(instance)
    box.new_host_key()
    os.kill(master_of(home), signal.SIGKILL)

    found = machines.examine(instance)

    assert "has changed" in found.findings[0].text
    assert found.findings[0].fix == f"%dstack fleet trust lab {box.address}"
    machines.forget(instance)
    assert machines.examine(instance).usable


# Ports


def test_a_port_leads_to_the_container_and_nothing_listens_on_the_machine(
    host: RemoteDockerHost, box: BedHost, busybox_image: str, home: Path
) -> None:
    port = free_port()

    name = started(host, home, a_server(busybox_image, Route(port, 8000)))

    wait_for(lambda: answers(port), "the page")
    assert box.docker.containers.get(name).ports.get("8000/tcp") is None
    host.stop(name, timedelta(0))
    assert not listens(port)


def test_the_machines_own_network_is_reached_by_its_loopback(
    host: RemoteDockerHost, busybox_image: str, home: Path
) -> None:
    port = free_port()
    spec = a_server(busybox_image, Route(port, 8000), host_network=True)
    script = "exec httpd -f -p 127.0.0.1:8000 -h /etc"

    started(host, home, replace(spec, script=script))

    wait_for(lambda: answers(port), "the page")


def test_a_container_that_ends_by_itself_gives_its_port_back(
    host: RemoteDockerHost, busybox_image: str, home: Path
) -> None:
    port = free_port()
    spec = a_server(busybox_image, Route(port, 8000), script="sleep 1\n")
    name = started(host, home, spec)
    assert listens(port)

    host.attend(name, Home(home).logs / name)

    assert not listens(port)


def test_a_taken_port_is_told_before_anything_runs(
    host: RemoteDockerHost, busybox_image: str, home: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        port = somebody.getsockname()[1]
        spec = a_server(busybox_image, Route(port, 8000))

        with pytest.raises(PortTaken, match=f"port {port} is already used on this computer"):
            started(host, home, spec)

        assert host.look(spec.name).container is Container.ABSENT


# A lost connection


def test_ports_come_back_after_the_connection_was_killed(
    machines: RemoteMachines,
    instance: Instance,
    host: RemoteDockerHost,
    busybox_image: str,
    home: Path,
) -> None:
    ports = [free_port(), free_port()]
    for number, port in enumerate(ports):
        spec = a_server(busybox_image, Route(port, 8000), name=f"web-{number}")
        started(host, home, spec)
    os.kill(master_of(home), signal.SIGKILL)
    wait_for(lambda: not any(map(listens, ports)), "the loss")

    took = seconds_until(lambda: machines.ping(instance) is None)

    assert took < 6
    assert all(map(answers, ports))


def test_the_next_engine_takes_ports_up_without_a_break_and_closes_old_ones(
    machines: RemoteMachines,
    instance: Instance,
    host: RemoteDockerHost,
    box: BedHost,
    busybox_image: str,
    home: Path,
) -> None:
    kept, old = free_port(), free_port()
    started(host, home, a_server(busybox_image, Route(kept, 8000), name="kept"))
    started(host, home, a_server(busybox_image, Route(old, 8000), name="old"))
    wait_for(lambda: answers(kept), "the page")
    machines.close()
    box.docker.containers.get("old").remove(force=True)

    with socket.create_connection(("127.0.0.1", kept), timeout=5) as visitor:
        after = RemoteMachines(Home(home))
        assert after.host(instance).look("kept").container is Container.UP
        visitor.sendall(b"GET /passwd HTTP/1.0\r\n\r\n")
        assert visitor.recv(1000)

    assert not listens(old)
    after.close()


def test_a_frozen_machine_is_noticed_by_ping_and_by_whoever_waits_for_an_answer(
    machines: RemoteMachines,
    instance: Instance,
    host: RemoteDockerHost,
    box: BedHost,
    busybox_image: str,
    home: Path,
) -> None:
    name = started(host, home, a_server(busybox_image))
    box.freeze()
    began = time.monotonic()

    why = machines.ping(instance)
    pinged = time.monotonic() - began
    with pytest.raises(HostUnreachable):
        host.look(name)
    looked = time.monotonic() - began
    again = time.monotonic()
    with pytest.raises(HostUnreachable):
        host.look(name)

    assert why is not None
    assert pinged < 6
    assert looked < NOTICED + 1
    assert time.monotonic() - again < 1
    box.thaw()
    assert seconds_until(lambda: machines.ping(instance) is None, 40) < 40
    assert host.look(name).container is Container.UP


def test_a_cable_that_is_out_for_a_moment_is_no_loss(
    machines: RemoteMachines,
    instance: Instance,
    host: RemoteDockerHost,
    box: BedHost,
    busybox_image: str,
    home: Path,
) -> None:
    port = free_port()
    started(host, home, a_server(busybox_image, Route(port, 8000)))
    wait_for(lambda: answers(port), "the page")
    master = master_of(home)

    box.cut()
    time.sleep(3)
    box.heal()

    assert seconds_until(lambda: machines.ping(instance) is None) < 10
    assert master_of(home) == master
    assert answers(port)


def test_a_stopped_docker_engine_is_told_apart_from_a_lost_connection(
    machines: RemoteMachines, instance: Instance, host: RemoteDockerHost, box: BedHost
) -> None:
    assert machines.ping(instance) is None
    box.stop_docker()

    assert "the Docker Engine at root@" in str(machines.ping(instance))
    with pytest.raises(HostUnreachable, match="the Docker Engine at root@"):
        host.look("web-0-0-1")

    box.start_docker()
    assert machines.ping(instance) is None


def test_a_slow_line_that_is_full_is_no_loss(
    machines: RemoteMachines,
    instance: Instance,
    host: RemoteDockerHost,
    box: BedHost,
    busybox_image: str,
    home: Path,
    tmp_path: Path,
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "random").write_bytes(os.urandom(4 << 20))
    spec = a_server(busybox_image)
    machines.ping(instance)
    box.slow("2mbit")
    sending = threading.Thread(
        target=host.start, args=(spec, FolderFiles(project), Home(home).logs / spec.name)
    )
    sending.start()
    wait_for(lambda: host.transferring, "the files on their way")

    said = []
    while sending.is_alive():
        said.append(machines.ping(instance))
        sending.join(0.5)

    assert len(said) > 1
    assert set(said) == {None}
    assert host.look(spec.name).container is Container.UP


def test_output_goes_on_after_a_lost_connection_with_neither_gap_nor_repeat(
    machines: RemoteMachines,
    instance: Instance,
    host: RemoteDockerHost,
    busybox_image: str,
    home: Path,
) -> None:
    script = "for i in $(seq 1 300); do echo $i; sleep 0.02; done\n"
    name = started(host, home, a_server(busybox_image, script=script))
    log = Home(home).logs / name
    for _ in range(2):
        killer = subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {master_of(home)}"])
        with pytest.raises(HostUnreachable):
            host.attend(name, log)
        killer.wait()
        wait_for(lambda: machines.ping(instance) is None, "the connection")

    host.attend(name, log)

    assert printed(log).split() == [b"%d" % number for number in range(1, 301)]


def printed(log: Path) -> bytes:
    reader, parts, offset = LogReader(log), [], 0
    while frames := reader.read(offset):
        parts += [frame.payload for frame in frames]
        offset = frames[-1].next_offset
    return b"".join(parts)


# Inside a container


def test_a_shell_opens_in_the_container(
    host: RemoteDockerHost, busybox_image: str, home: Path
) -> None:
    name = started(host, home, a_server(busybox_image))
    argv = host.shell_command(name)
    in_a_terminal = ["script", "-qec", shlex.join(argv), "/dev/null"]

    done = subprocess.run(
        in_a_terminal, input=b"hostname; exit 5\n", capture_output=True, timeout=60, cwd="/"
    )

    assert done.returncode == 5, done.stdout


def test_gpus_in_use_are_those_of_the_machine(
    host: RemoteDockerHost, box: BedHost, busybox_image: str, home: Path
) -> None:
    first, second = box.give_gpus(2)
    spec = a_server(busybox_image, limits=Limits(gpus=(second,)))
    name = started(host, home, spec)

    usage = host.usage(name)

    assert usage is not None
    assert [gpu.uuid for gpu in usage.gpus] == [second]
    assert first != second


# Its end


def test_a_machine_that_is_given_back_has_nothing_of_ours(
    machines: RemoteMachines,
    instance: Instance,
    host: RemoteDockerHost,
    box: BedHost,
    busybox_image: str,
    home: Path,
) -> None:
    machines.examine(instance)
    port = free_port()
    started(host, home, a_server(busybox_image, Route(port, 8000)))

    machines.release(instance)

    assert box.containers() == []
    assert (box.docker.api.volumes()["Volumes"] or []) == []
    assert not listens(port)
    assert [path.name for path in (home / "ssh").iterdir()] == ["known_hosts"]


@pytest.mark.parametrize("user", ["root", "bob"])
def test_a_machine_that_was_never_claimed_is_let_go_without_asking_it(
    machines: RemoteMachines, box: BedHost, home: Path, user: str
) -> None:
    instance = a_machine(box.target(user))
    if user == "root":
        box.kill()  # bob is let in, but may not use its Docker Engine
    assert not machines.examine(instance).usable

    machines.release(instance)

    assert [path.name for path in (home / "ssh").iterdir()] == ["known_hosts"]


def test_a_machine_that_does_not_answer_cannot_be_given_back(
    machines: RemoteMachines, instance: Instance, box: BedHost
) -> None:
    machines.examine(instance)
    box.kill()
    began = time.monotonic()

    with pytest.raises(HostUnreachable):
        machines.release(instance)

    assert time.monotonic() - began < 30
    machines.forget(instance)
