"""The Docker host on a machine reached by SSH: that of this computer, over a forwarded socket.

What differs is the way there: a lost connection is told at once and by its reason, ports go through
forwards of ours, shells and questions to GPUs through the connection. Made by `remote`.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic

from dstack_engine.errors import HostUnreachable, ImageUnavailable, PortTaken
from dstack_engine.hosts.base import ContainerSpec, ExecResult, Files, ProgressSink
from dstack_engine.hosts.docker import DockerHost, shell_words
from dstack_engine.hosts.docker_transfer import send_image
from dstack_engine.hosts.docker_wire import DEFAULT_URL
from dstack_engine.hosts.gpus import USAGE_QUERY, parse_usage
from dstack_engine.hosts.ports import is_taken
from dstack_engine.hosts.remote_routes import RouteKeeper, labelled
from dstack_engine.records.events import Stream
from dstack_engine.records.offers import HostKind
from dstack_engine.records.sightings import Container, GpuUsage, Sighting, Usage
from dstack_engine.ssh.configs import arguments
from dstack_engine.ssh.links import Link

#: Enters the folder of the connection's socket, whose name from there is short enough.
_IN_FOLDER = 'cd "$0" && exec ssh "$@"'


class RemoteDockerHost:
    """Runs jobs as containers of the machine behind *link*; see `hosts.base.Host`.

    *docker* is the host at the forwarded socket, *home* the id of the engine's home.
    """

    kind = HostKind.DOCKER

    def __init__(self, link: Link, docker: DockerHost, routes: RouteKeeper, home: str) -> None:
        self._link = link
        self._docker = docker
        self._routes = routes
        self._home = home
        self._lock = threading.Lock()
        self._transfers = 0

    @property
    def transferring(self) -> bool:
        """Tell whether much is on its way: on a slow line all else waits behind it."""
        return self._transfers > 0

    # Images

    def has_image(self, image: str) -> bool:
        """Tell whether *image* is on the machine already."""
        with self._connected():
            return self._docker.has_image(image)

    def prepare(self, spec: ContainerSpec, progress: ProgressSink) -> None:
        """Have the machine fetch the image; where it cannot, that of this computer is sent."""
        with self._connected():
            try:
                self._docker.prepare(spec, progress)
            except ImageUnavailable:
                here, there, image = DEFAULT_URL, self._docker.base_url, spec.image or ""
                if not send_image(here, there, image, progress):
                    raise

    def send_files(self, spec: ContainerSpec, files: Files, progress: ProgressSink) -> None:
        """Send what the machine lacks of *files*."""
        with self._connected(), self._transfer():
            self._docker.send_files(spec, files, progress)

    # A container's life

    def start(self, spec: ContainerSpec, files: Files | None, log: Path) -> None:
        """Create the container, put *files* into it, start it, open its ports.

        When a port is found to be taken only then, nothing of the container is left.
        """
        with self._connected():
            if spec.routes:
                self._check_ports(spec)
            with self._transfer():
                self._docker.start(labelled(spec, self._home), files, log)
            if not spec.routes:
                return
            try:
                self._routes.open(spec.name)
            except PortTaken as error:
                self._docker.remove(spec.name)
                self._routes.close(spec.name)
                raise PortTaken(f"cannot start {spec.name}: {error.message}") from error

    def _check_ports(self, spec: ContainerSpec) -> None:
        """Raise `PortTaken` before a container is started whose ports could not be opened."""
        if self._docker.look(spec.name).container not in (Container.ABSENT, Container.CREATED):
            return
        if any(is_taken(route.local_port) for route in spec.routes):
            self._routes.keep()  # it may be ours still, of a container that has ended
        for route in spec.routes:
            if is_taken(route.local_port):
                raise PortTaken(
                    f"cannot start {spec.name}: port {route.local_port} is already used on this "
                    "computer"
                )

    def attend(self, name: str, log: Path) -> None:
        """Block until the container has ended and all its output lies in *log*."""
        with self._connected():
            self._docker.attend(name, log)
        self._routes.close(name)

    def look(self, name: str) -> Sighting:
        """Return what there is of the container now."""
        with self._connected():
            seen = self._docker.look(name)
        if seen.container is not Container.UP:
            self._routes.close(name)
        return seen

    def stop(self, name: str, grace: timedelta) -> None:
        """End the container: politely, and hard after *grace*; nothing of it runs on return."""
        with self._connected():
            self._docker.stop(name, grace)
        self._routes.close(name)

    def remove(self, name: str) -> None:
        """End the container at once and take away all of it, files included."""
        with self._connected():
            self._docker.remove(name)
        self._routes.close(name)

    def list_containers(self, labels: Mapping[str, str]) -> Sequence[str]:
        """Return the names of all containers, running or ended, that carry *labels*."""
        with self._connected():
            return self._docker.list_containers(labels)

    # Inside a running container

    def usage(self, name: str) -> Usage | None:
        """Return what the container uses now; None when it does not run."""
        with self._connected():
            return self._docker.usage(name)

    def execute(
        self, name: str, command: Sequence[str], sink: Callable[[Stream, bytes], None]
    ) -> ExecResult:
        """Run *command* in the running container; its output goes to *sink* as it comes."""
        with self._connected():
            return self._docker.execute(name, command, sink)

    def read_files(self, name: str, path: str) -> Iterator[bytes]:
        """Yield the file or folder *path* as an uncompressed tar; the container may have ended."""
        with self._connected():
            return self._chunks(self._docker.read_files(name, path))

    def _chunks(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        with self._connected(), self._transfer():
            yield from chunks

    def shell_command(self, name: str) -> Sequence[str]:
        """Return the argv that opens an interactive shell in the running container."""
        link = self._link
        return (
            *("/bin/sh", "-c", _IN_FOLDER, str(link.config.parent)),
            *("-F", link.config.name, "-S", f"./{link.control.name}", "-t"),
            *arguments(link.target),
            shlex.join(("docker", *shell_words(name))),
        )

    # The way there

    @contextmanager
    def _connected(self) -> Iterator[None]:
        self._link.need()
        try:
            yield
        except HostUnreachable as error:
            raise self._explained(error) from error

    @contextmanager
    def _transfer(self) -> Iterator[None]:
        with self._lock:
            self._transfers += 1
        try:
            yield
        finally:
            with self._lock:
                self._transfers -= 1

    def _explained(self, error: HostUnreachable) -> HostUnreachable:
        """Return the error with the connection's own reason, where that is lost."""
        lost = self._link.lost()
        if lost is not None:
            return lost
        words = error.message.replace(self._docker.base_url, self._link.target.text)
        return HostUnreachable(words, hint=error.hint or "Look there: sudo systemctl status docker")


class RemoteGpus:
    """What the GPUs of the machine behind *link* do; asked for all of them, now and then."""

    #: For so many seconds an answer is good; after none, nothing is asked for a while.
    KEEP = 2.0
    KEEP_SILENCE = 60.0
    #: Seconds for an answer; a driver in trouble can let `nvidia-smi` hang for ever.
    TIMEOUT = 5.0

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._known: dict[str, GpuUsage] = {}
        self._good_until = 0.0

    def usage(self, uuids: Sequence[str]) -> tuple[GpuUsage, ...]:
        """Return what the GPUs *uuids* do; those that cannot be asked are left out."""
        if not uuids:
            return ()
        with self._lock:
            if monotonic() >= self._good_until:
                self._ask()
            return tuple(self._known[uuid] for uuid in uuids if uuid in self._known)

    def _ask(self) -> None:
        query = shlex.join(USAGE_QUERY)
        bounded = f"command -v timeout >/dev/null && exec timeout {self.TIMEOUT:.0f} {query}\n"
        try:
            said = self._link.run_script(f"{bounded}exec {query}\n", self.TIMEOUT + 1)
        except HostUnreachable:
            said = ""
        lines = (parse_usage(line) for line in said.splitlines())
        self._known = {found.uuid: found for found in lines if found is not None}
        self._good_until = monotonic() + (self.KEEP if self._known else self.KEEP_SILENCE)
