"""The hosts that the shared suite is run against, one function for each."""

from __future__ import annotations

import io
import os
import shutil
import signal
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dstack_engine.errors import ContainerFailed, HostUnreachable
from dstack_engine.home import Home
from dstack_engine.hosts.base import ContainerSpec, Files, Host
from dstack_engine.hosts.docker import DockerHost
from dstack_engine.hosts.logs import LogReader
from dstack_engine.hosts.process import ProcessHost
from dstack_engine.hosts.remote import RemoteMachines
from dstack_engine.records.instances import Instance, InstanceName, InstanceStatus
from dstack_engine.records.machines import SshTarget
from dstack_engine.records.offers import HostKind, MachineShape, Offer, OfferId
from dstack_engine.records.sightings import Container, Sighting
from dstack_engine.testing import FakeHost, FakeMachine
from tests.hosts.bed import Bed
from tests.ssh.servers import SshServer

PATIENCE = 30.0


def process_host(request: pytest.FixtureRequest, home: Home) -> Ground:
    """Plain processes in a home of the test's own."""
    home.make()

    def make(**options: Any) -> Host:
        return ProcessHost(home, **options)

    return Ground(make, home)


def docker_host(request: pytest.FixtureRequest, home: Home) -> Ground:
    """This machine's Docker Engine, with an image that has bash and Python."""
    engine = request.getfixturevalue("docker_engine")
    image: str = request.getfixturevalue("python_image")

    def make(**options: Any) -> Host:
        return DockerHost(engine.host, **options)

    return Ground(make, home, image=image)


def ssh_host(request: pytest.FixtureRequest, home: Home) -> Ground:
    """This machine's Docker Engine, reached by SSH through a server on loopback."""
    request.getfixturevalue("docker_engine")
    image: str = request.getfixturevalue("python_image")
    server: SshServer = request.getfixturevalue("ssh_server")
    return _remote_ground(request, home, server.target, image)


def bed_host(request: pytest.FixtureRequest, home: Home) -> Ground:
    """A host of the bed: a machine of its own, with its own Docker Engine."""
    bed: Bed = request.getfixturevalue("bed")
    image: str = request.getfixturevalue("bed_python_image")
    return _remote_ground(request, home, bed.hosts[0].target(), image)


def _remote_ground(
    request: pytest.FixtureRequest, home: Home, target: SshTarget, image: str
) -> Ground:
    home.make()
    instance = a_machine(target)

    def make(**options: Any) -> Host:
        return RemoteMachines(home, **options).host(instance)

    request.addfinalizer(lambda: RemoteMachines(home).forget(instance))
    return Ground(make, home, image=image)


def a_machine(target: SshTarget, name: str = "lab-0") -> Instance:
    """Return the record of a machine of one's own."""
    at = datetime(2026, 11, 21, tzinfo=timezone.utc)
    shape = MachineShape(4, 8.0)
    offer = Offer(OfferId(f"ssh/{name}"), "ssh", "lab", "box", HostKind.DOCKER, shape, 0.0)
    fleet, _, number = name.rpartition("-")
    return Instance(
        InstanceName(name),
        "ssh",
        offer,
        InstanceStatus.IDLE,
        at,
        at,
        fleet=fleet,
        number=int(number),
        ssh=target,
    )


def fake_host(request: pytest.FixtureRequest, home: Home) -> Ground:
    """The fake, which knows a few words of shell."""
    machine = FakeMachine()

    def make(**options: Any) -> Host:
        return FakeHost(machine)

    return Ground(make, home)


class Ground:
    """A host under test, and what a test does with it again and again."""

    def __init__(self, make: Callable[..., Host], home: Home, *, image: str | None = None) -> None:
        self._make = make
        self.home = home
        self.image = image
        self.host = make()
        self.labels = {"test": uuid.uuid4().hex}

    def restart_engine(self, **options: Any) -> None:
        """Forget the host object, as a killed engine does, and make another."""
        self.host = self._make(**options)

    def spec(self, script: str | None, **changes: Any) -> ContainerSpec:
        """Return a spec with a name of its own."""
        name = f"t-{uuid.uuid4().hex[:12]}"
        spec = ContainerSpec(name, self.labels, script, image=self.image)
        return replace(spec, **changes)

    def log(self, name: str) -> Path:
        return self.home.logs / name

    def start(self, script: str | None, files: Files | None = None, **changes: Any) -> str:
        """Start a container that runs *script*; return its name."""
        spec = self.spec(script, **changes)
        self.start_spec(spec, files)
        return spec.name

    def start_spec(self, spec: ContainerSpec, files: Files | None = None) -> None:
        self.host.prepare(spec, lambda *_: None)
        self.host.start(spec, files, self.log(spec.name))

    def run(self, script: str | None, files: Files | None = None, **changes: Any) -> Ended:
        """Run *script* to its end."""
        return self.wait(self.start(script, files, **changes))

    def wait(self, name: str, patience: float = PATIENCE) -> Ended:
        """Attend the container to its end; return how it ended and what it printed."""
        thread = threading.Thread(target=self.host.attend, args=(name, self.log(name)), daemon=True)
        thread.start()
        thread.join(patience)
        assert not thread.is_alive(), f"{name} has not ended: {self.output(name)[-1000:]!r}"
        return Ended(
            name, self.host.look(name), self.output(name, "stdout"), self.output(name, "stderr")
        )

    def output(self, name: str, stream: str | None = None) -> bytes:
        """Return what lies in the log now."""
        reader, parts, offset = LogReader(self.log(name)), [], 0
        while frames := reader.read(offset):
            parts += [f.payload for f in frames if stream in (None, f.stream_name)]
            offset = frames[-1].next_offset
        return b"".join(parts)

    def follow(self, name: str) -> threading.Thread:
        """Attend in the background, as the engine does, so that output reaches the log."""
        thread = threading.Thread(target=self._attend_quietly, args=(self.host, name), daemon=True)
        thread.start()
        return thread

    def follow_and_die(self, name: str) -> None:
        """Attend in a process of its own that is killed once more output has come."""
        before = len(self.output(name))
        engine = os.fork()
        if engine == 0:
            try:
                self._make().attend(name, self.log(name))
            finally:
                os._exit(0)
        try:
            eventually(lambda: len(self.output(name)) > before, "more output")
        finally:
            os.kill(engine, signal.SIGKILL)
            os.waitpid(engine, 0)

    def wait_for_output(self, name: str, text: bytes) -> None:
        """Block until *text* was printed by a container that somebody attends."""
        eventually(lambda: text in self.output(name), f"{text!r} in the output of {name}")

    def tear_down(self) -> None:
        for name in self.host.list_containers(self.labels):
            self.host.remove(name)

    def _attend_quietly(self, host: Host, name: str) -> None:
        try:
            host.attend(name, self.log(name))
        except (ContainerFailed, HostUnreachable):
            return


@dataclass(frozen=True)
class Ended:
    """A container that has ended."""

    name: str
    sighting: Sighting
    stdout: bytes
    stderr: bytes = field(default=b"")

    def __post_init__(self) -> None:
        assert self.sighting.container is Container.EXITED, self.sighting

    @property
    def exit_code(self) -> int | None:
        return self.sighting.exit_code


@dataclass(frozen=True)
class FolderFiles:
    """A project's files that lie in a folder."""

    folder: Path

    @classmethod
    def of(cls, folder: Path, contents: Mapping[str, str]) -> FolderFiles:
        for name, text in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return cls(folder)

    def write_tar(self, target: BinaryIO) -> None:
        with tarfile.open(fileobj=target, mode="w|") as tar:
            for path in sorted(self.folder.iterdir()):
                tar.add(path, path.name)

    def copy_to(self, folder: Path) -> None:
        shutil.copytree(self.folder, folder, dirs_exist_ok=True, symlinks=True)


def eventually(is_so: Callable[[], bool], what: str) -> None:
    """Block until *is_so*; fail when it is not after long."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.02)


def untar(chunks: object) -> dict[str, bytes | str | None]:
    """Return the entries of a tar: a file's content, a link's target, None for a folder."""
    whole = b"".join(chunks)  # type: ignore[call-overload]
    found: dict[str, bytes | str | None] = {}
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            content = file.read() if file else None
            found[member.name.rstrip("/")] = member.linkname if member.issym() else content
    return found


GRACE = timedelta(seconds=30)
