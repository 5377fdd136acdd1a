"""A host whose containers are lists of words, for tests of whatever starts jobs."""

from __future__ import annotations

import io
import posixpath
import shlex
import signal
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from dstack_engine.errors import HostUnreachable, NotFound
from dstack_engine.hosts.base import ContainerSpec, ExecResult, Files, ProgressSink
from dstack_engine.hosts.logs import STDERR, STDOUT, LogWriter
from dstack_engine.records.events import Stream
from dstack_engine.records.offers import HostKind
from dstack_engine.records.sightings import Container, Sighting, Usage
from dstack_engine.testing.conditions import Failures, FakeClock


@dataclass
class FakeContainer:
    """A container of a `FakeMachine`: what it was asked, and how far it is."""

    spec: ContainerSpec
    log: Path
    files: bytes
    sighting: Sighting
    #: Lines of its script that have not been carried out yet.
    lines: list[str] = field(default_factory=list)
    trap: str | None = None


class FakeMachine:
    """What outlives an engine: containers. Give it to a new `FakeHost` to restart the engine."""

    def __init__(self, clock: Callable[[], datetime] | None = None) -> None:
        self.clock = clock or FakeClock()
        self.containers: dict[str, FakeContainer] = {}
        self.changed = threading.Condition()


class FakeHost:
    """Runs containers that are lists of words.

    A script's lines are carried out at once: ``echo WORDS [>&2]``, ``trap 'echo WORDS' TERM``,
    ``exit N``, ``kill -N $$``; any ``sleep`` or ``wait`` lasts until `finish` or `stop`; other
    lines do nothing. `failures` and `unreachable` arrange bad days.
    """

    def __init__(
        self, machine: FakeMachine | None = None, *, kind: HostKind = HostKind.DOCKER
    ) -> None:
        self.kind = kind
        self.machine = machine or FakeMachine()
        self.failures = Failures()
        self.unreachable = False
        #: Every call as (verb, container's name), in order.
        self.calls: list[tuple[str, str]] = []
        self.images: set[str] = set()
        self.usages: dict[str, Usage] = {}

    def prepare(self, spec: ContainerSpec, progress: ProgressSink) -> None:
        """Pretend to pull the image, in two steps."""
        self._call("prepare", spec.name)
        if spec.image is not None and spec.image not in self.images:
            progress("pulling", 0.0, spec.image)
            progress("pulling", 1.0, spec.image)
            self.images.add(spec.image)

    def start(self, spec: ContainerSpec, files: Files | None, log: Path) -> None:
        """Carry out the script up to its first wait."""
        self._call("start", spec.name)
        if spec.name in self.machine.containers:
            return
        tar = io.BytesIO()
        if files is not None:
            files.write_tar(tar)
        up = Sighting(Container.UP, started_at=self.machine.clock())
        lines = [line.strip() for line in (spec.script or "").splitlines()]
        container = FakeContainer(spec, log, tar.getvalue(), up, lines)
        self.machine.containers[spec.name] = container
        LogWriter(log).close()
        self._proceed(container)

    def attend(self, name: str, log: Path) -> None:
        """Block until the container has ended."""
        self._call("attend", name)
        with self.machine.changed:
            self.machine.changed.wait_for(
                lambda: self._seen(name).container is not Container.UP or self.unreachable
            )
        self._reach()

    def look(self, name: str) -> Sighting:
        """Return what there is of the container."""
        self._call("look", name)
        return self._seen(name)

    def stop(self, name: str, grace: timedelta) -> None:
        """End the container; its trap is carried out when there is any grace."""
        self._call("stop", name)
        container = self.machine.containers.get(name)
        if container is None or container.sighting.container is not Container.UP:
            return
        if grace and container.trap is not None:
            container.lines = [container.trap, "exit 0"]
            self._proceed(container)
        elif grace:
            self._end(container, exit_code=128 + signal.SIGTERM, signal=int(signal.SIGTERM))
        else:
            self._end(container, exit_code=128 + signal.SIGKILL, signal=int(signal.SIGKILL))

    def remove(self, name: str) -> None:
        """Forget the container."""
        self._call("remove", name)
        with self.machine.changed:
            self.machine.containers.pop(name, None)
            self.machine.changed.notify_all()

    def list_containers(self, labels: Mapping[str, str]) -> Sequence[str]:
        """Return the containers that carry *labels*."""
        self._call("list_containers", "")
        found = self.machine.containers.items()
        return sorted(n for n, c in found if labels.items() <= c.spec.labels.items())

    def usage(self, name: str) -> Usage | None:
        """Return what `usages` says, or one busy core."""
        self._call("usage", name)
        if self._seen(name).container is not Container.UP:
            return None
        return self.usages.get(name, Usage(self.machine.clock(), cpus=1.0, memory_gb=0.5))

    def execute(
        self, name: str, command: Sequence[str], sink: Callable[[Stream, bytes], None]
    ) -> ExecResult:
        """Carry out *command*, or the script after ``-c``, as one line of a script."""
        self._call("execute", name)
        if self._seen(name).container is not Container.UP:
            raise NotFound(f"the container {name} does not run")
        text = command[-1] if "-c" in command else shlex.join(command)
        code = 0
        for line in text.replace(";", "\n").splitlines():
            if echoed := _echo(line.strip()):
                sink(*echoed)
            elif line.strip().startswith("exit "):
                code = int(line.split()[1])
        return ExecResult(code)

    def read_files(self, name: str, path: str) -> Iterator[bytes]:
        """Yield from the files that the container was started with."""
        self._call("read_files", name)
        container = self.machine.containers.get(name)
        if container is None:
            raise NotFound(f"there is no container {name}")
        return iter([_part_of_tar(container.files, path)])

    def has_image(self, image: str) -> bool:
        """Tell whether *image* was pulled."""
        return image in self.images

    def shell_command(self, name: str) -> Sequence[str]:
        """Return an argv that does nothing."""
        if self._seen(name).container is not Container.UP:
            raise NotFound(f"the container {name} does not run")
        return ["true", name]

    def print(self, name: str, payload: bytes, stream: Stream = Stream.STDOUT) -> None:
        """Let a running container print."""
        self._write(self.machine.containers[name], stream, payload)

    def finish(self, name: str, exit_code: int = 0, **facts: Any) -> None:
        """Let a running container end; *facts* are further fields of its `Sighting`."""
        self._end(self.machine.containers[name], exit_code=exit_code, **facts)

    def set_unreachable(self, unreachable: bool) -> None:
        """Let every verb raise `HostUnreachable` from now on, or no more."""
        with self.machine.changed:
            self.unreachable = unreachable
            self.machine.changed.notify_all()

    def _call(self, verb: str, name: str) -> None:
        self.calls.append((verb, name))
        self._reach()
        self.failures.meet(verb)

    def _reach(self) -> None:
        if self.unreachable:
            raise HostUnreachable("the fake host was told not to answer")

    def _seen(self, name: str) -> Sighting:
        container = self.machine.containers.get(name)
        return Sighting(Container.ABSENT) if container is None else container.sighting

    def _proceed(self, container: FakeContainer) -> None:
        """Carry out the lines up to a wait or the end."""
        while container.lines:
            line = container.lines.pop(0)
            words = shlex.split(line) or [""]
            if echoed := _echo(line):
                self._write(container, *echoed)
            elif words[0] == "trap":
                container.trap = words[1]
            elif words[0] in ("sleep", "wait"):
                return None
            elif words[0] == "exit":
                return self._end(container, exit_code=int(words[1]))
            elif words[0] == "kill":
                number = int(words[1].removeprefix("-"))
                return self._end(container, exit_code=128 + number, signal=number)
        return self._end(container, exit_code=0)

    def _write(self, container: FakeContainer, stream: Stream, payload: bytes) -> None:
        writer = LogWriter(container.log)
        time_ns = int(self.machine.clock().timestamp() * 1e9)
        writer.append(STDERR if stream is Stream.STDERR else STDOUT, time_ns, payload)
        writer.close()

    def _end(self, container: FakeContainer, *, exit_code: int, **facts: Any) -> None:
        with self.machine.changed:
            container.sighting = Sighting(
                Container.EXITED,
                exit_code=exit_code,
                started_at=container.sighting.started_at,
                finished_at=self.machine.clock(),
                **facts,
            )
            self.machine.changed.notify_all()


def _echo(line: str) -> tuple[Stream, bytes] | None:
    """Return what a line of ``echo`` prints and where; None for any other line."""
    if not line.startswith("echo "):
        return None
    words = shlex.split(line)[1:]
    stream = Stream.STDERR if words and words[-1] == ">&2" else Stream.STDOUT
    return stream, " ".join(word for word in words if word != ">&2").encode() + b"\n"


def _part_of_tar(whole: bytes, path: str) -> bytes:
    """Return the entries at or below *path*, named from its last part on."""
    wanted = posixpath.normpath(path)
    result = io.BytesIO()
    found = wanted == "."
    with (
        tarfile.open(fileobj=io.BytesIO(whole or bytes(1024))) as source,
        tarfile.open(fileobj=result, mode="w") as target,
    ):
        for member in source:
            name = posixpath.normpath(member.name)
            if wanted != "." and name != wanted and not name.startswith(f"{wanted}/"):
                continue
            found = True
            member.name = posixpath.relpath(name, posixpath.dirname(wanted) or ".")
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
    if not found:
        raise NotFound(f"the container has no file {path}")
    return result.getvalue()
