"""The Docker host: jobs as containers of a Docker Engine, on this computer or another.

The engine is reached at a ``unix://`` or ``tcp://`` address; another machine's comes through a
socket that `ssh` forwards. What exists is asked of the engine each time and never remembered: the
container's name is the job's, its labels say whose it is, its state says what is still to do.

A job's files lie in ``/workflow`` of the container. Called by the job loop from worker threads.
"""

from __future__ import annotations

import math
import posixpath
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from docker import APIClient
from docker.errors import APIError
from docker.errors import NotFound as DockerNotFound

from dstack_engine.errors import ContainerFailed, HostUnreachable, NotFound
from dstack_engine.hosts import docker_wire
from dstack_engine.hosts.base import ContainerSpec, ExecResult, Files, ProgressSink
from dstack_engine.hosts.docker_archives import Owner, owned, owner_of
from dstack_engine.hosts.docker_attachment import Attachments
from dstack_engine.hosts.docker_containers import WORKFLOW, creation, write_own_tar
from dstack_engine.hosts.docker_errors import (
    CONNECTION_ERRORS,
    explanation,
    translated,
    unreachable,
)
from dstack_engine.hosts.docker_examination import GpuQuestion, examine
from dstack_engine.hosts.docker_following import LogFollower
from dstack_engine.hosts.docker_images import has_image, pull
from dstack_engine.hosts.docker_layers import REPOSITORY, LayeredImages
from dstack_engine.hosts.docker_sightings import (
    EngineLife,
    may_be_interrupted,
    moment,
    sighting,
    was_interrupted,
)
from dstack_engine.hosts.docker_usage import CpuMeter, memory_gb, requested_gpus
from dstack_engine.hosts.docker_wire import DEFAULT_URL
from dstack_engine.hosts.gpus import gpu_usage
from dstack_engine.hosts.logs import DEFAULT_CAP
from dstack_engine.records.events import Stream
from dstack_engine.records.findings import Finding
from dstack_engine.records.offers import HostKind
from dstack_engine.records.sightings import Container, GpuUsage, Sighting, Usage

#: Seconds in which an engine that lives answers a ping: on this computer, and from another one.
PING_TIMEOUT = 1.0
FORWARDED_PING_TIMEOUT = 4.0
#: Seconds that any other call may take without an answer; a busy disk makes some slow.
CALL_TIMEOUT = 120
#: Connections that are kept open for the threads that share this host.
POOL_SIZE = 64

#: How often, and after how many seconds, a container that is being created is looked for.
CREATION_LOOKS = 100
CREATION_PAUSE = 0.1

#: bash where there is one, for a person at a terminal.
_SHELL = "command -v bash >/dev/null && exec bash; exec sh"


class DockerHost:
    """Runs jobs as containers of the Docker Engine at *base_url*; see `hosts.base.Host`.

    *log_cap* bounds each job's log in bytes; *on_output* is called when something was added to one;
    *default_images* are those that runs use which name none; *gpu_usage* tells what GPUs of the
    engine's machine do, by UUID. The socket of an engine that is *forwarded* from another machine
    may refuse because of the way there. With *layers* a project's files are kept there, and only
    what has changed is sent.
    Safe to use from many threads. Making one asks the engine nothing, so it may be away.
    """

    kind = HostKind.DOCKER

    def __init__(
        self,
        base_url: str | None = None,
        *,
        log_cap: int = DEFAULT_CAP,
        on_output: Callable[[], None] = lambda: None,
        default_images: Sequence[str] = (),
        gpu_usage: Callable[[Sequence[str]], tuple[GpuUsage, ...]] = gpu_usage,
        forwarded: bool = False,
        layers: LayeredImages | None = None,
    ) -> None:
        self.base_url = base_url or DEFAULT_URL
        self._log_cap = log_cap
        self._on_output = on_output
        self._lock = threading.Lock()
        #: Threads that start the same container wait for each other.
        self._starting = tuple(threading.Lock() for _ in range(POOL_SIZE))
        self._client: APIClient | None = None
        self._cpu = CpuMeter()
        self._attachments = Attachments(self.base_url)
        #: Containers that were started here and not attended yet.
        self._fresh: set[str] = set()
        self._gpu_question = GpuQuestion(self.base_url)
        self._default_images = default_images
        self._gpu_usage = gpu_usage
        self._forwarded = forwarded
        self._layers = layers

    # Whether the engine is there

    def ping(self) -> None:
        """Return once the engine has answered, in a second at most. Raises `HostUnreachable`.

        One on another machine has four seconds.
        """
        timeout = FORWARDED_PING_TIMEOUT if self._forwarded else PING_TIMEOUT
        try:
            docker_wire.ping(self.base_url, timeout)
        except CONNECTION_ERRORS as error:
            raise unreachable(self.base_url, error) from error

    def reachable(self) -> bool:
        """Tell, in a second at most, whether the engine answers."""
        try:
            self.ping()
        except HostUnreachable:
            return False
        return True

    def gives_gpus(self) -> bool:
        """Tell whether the engine gives NVIDIA GPUs to containers; asked once a minute at most."""
        return self._gpu_question.answer()

    def doctor(self) -> Iterator[Finding]:
        """Yield what is well and what is missing, in some seconds at most."""
        yield from examine(self.base_url, self._default_images)

    # Images

    def has_image(self, image: str) -> bool:
        """Tell whether *image* is on the engine's machine already."""
        with self._calling(f"look for {image}"):
            return has_image(self._api, image)

    def prepare(self, spec: ContainerSpec, progress: ProgressSink) -> None:
        """Fetch the image unless it is here already."""
        image = _image(spec)
        with self._calling(f"pull {image}"):
            if not has_image(self._api, image):
                pull(self._api, image, spec.registry_auth, progress)

    def send_files(self, spec: ContainerSpec, files: Files, progress: ProgressSink) -> None:
        """Send what the engine lacks of *files*, if it keeps files; else `start` sends them."""
        if self._layers is not None:
            with self._calling(f"send the files of {spec.name}"):
                self._layers.image_with(spec, files, progress)

    # A container's life

    def start(self, spec: ContainerSpec, files: Files | None, log: Path) -> None:
        """Create the container, put *files* into it, start it; finish what is left half-done.

        A container that has never run is filled again and started: files that arrived half are
        written anew. One that runs or has run is left alone.
        """
        _image(spec)
        log.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (
            self._starting[hash(spec.name) % len(self._starting)],
            self._calling(f"start {spec.name}"),
        ):
            image = self._image_with(spec, files)
            made = self._create(spec if image is None else replace(spec, image=image))
            if not made and not self._never_ran(spec.name):
                return
            self._attachments.add(spec.name)
            try:
                self._fill(spec, files if image is None else None)
                self._api.start(spec.name)
                self._fresh.add(spec.name)
            except BaseException:
                self._attachments.drop(spec.name)
                raise

    def _image_with(self, spec: ContainerSpec, files: Files | None) -> str | None:
        """Return the image that has *files* in it already; None where they are to be put in."""
        if self._layers is None or files is None:
            return None
        found = self._inspect(spec.name)
        if found is None:
            return self._layers.image_with(spec, files)
        image = str(found["Config"]["Image"])
        return image if image.startswith(f"{REPOSITORY}:") else None

    def _create(self, spec: ContainerSpec) -> bool:
        """Create the container; return False when one of its name exists."""
        body = creation(spec, log_cap=self._log_cap)
        try:
            self._api.create_container_from_config(body, spec.name)  # type: ignore[no-untyped-call]
        except APIError as error:
            if "is already in use by container" in explanation(error):
                return False
            raise
        return True

    def _never_ran(self, name: str) -> bool:
        nobody = threading.Event()
        for _ in range(CREATION_LOOKS):
            found = self._inspect(name)
            if found is not None:
                return sighting(found).container is Container.CREATED
            # Its name is taken before it can be seen: another engine, perhaps killed, is at it.
            nobody.wait(CREATION_PAUSE)
        raise HostUnreachable(f"the Docker Engine is still creating {name}")

    def _fill(self, spec: ContainerSpec, files: Files | None) -> None:
        """Put our own part and the project's files into the container, owned by its user."""
        working_dir = posixpath.normpath(posixpath.join(WORKFLOW, spec.working_dir))
        owner = owner_of(self._api, spec.name, spec.user) if spec.user else Owner()
        parts = {"/": write_own_tar(spec, working_dir)}
        parts[WORKFLOW] = None if files is None else files.write_tar
        for folder, write in parts.items():
            if write is None:
                continue
            if owner != Owner():
                write = owned(write, owner)
            docker_wire.put_archive(self.base_url, spec.name, folder, write)

    def attend(self, name: str, log: Path) -> None:
        """Block until the container has ended and all its output lies in *log*.

        Returns at once for one that is absent or has not run yet. When the engine goes away in
        mid-stream it raises `HostUnreachable`; called again, it goes on where it was. Called by
        two at once, the second waits for the first.
        """
        # A look may take 0.1 s when the container ends at once: the engine locks it meanwhile.
        fresh = name in self._fresh
        self._fresh.discard(name)
        if not fresh and self.look(name).container in (Container.ABSENT, Container.CREATED):
            return
        attachment = self._attachments.get(name)
        follower = LogFollower(self.base_url, name, log, self._log_cap, self._on_output, attachment)
        follower.follow(lambda: self.look(name).container is Container.UP, up=fresh)
        self._attachments.drop(name)

    def look(self, name: str) -> Sighting:
        """Return what there is of the container now."""
        with self._calling(f"look at {name}"):
            found = self._inspect(name)
            if found is None:
                return Sighting(Container.ABSENT)
            seen = sighting(found)
            if may_be_interrupted(seen) and was_interrupted(seen, self._engine_life()):
                return replace(seen, interrupted=True)
            return seen

    def stop(self, name: str, grace: timedelta) -> None:
        """End the container: politely, and hard after *grace*; nothing of it runs on return."""
        seconds = math.ceil(grace.total_seconds())
        with self._calling(f"stop {name}"):
            try:
                if seconds > 0:
                    self._api.stop(name, timeout=seconds)
                else:
                    self._kill(name)
                self._api.wait(name, timeout=CALL_TIMEOUT, condition="not-running")
            except DockerNotFound:
                return

    def _kill(self, name: str) -> None:
        try:
            self._api.kill(name)
        except DockerNotFound:
            raise
        except APIError as error:
            if "is not running" not in explanation(error):
                raise

    def remove(self, name: str) -> None:
        """End the container at once and take away all of it, files included."""
        self._cpu.forget(name)
        self._attachments.drop(name)
        self._fresh.discard(name)
        with self._calling(f"remove {name}"):
            try:
                self._api.remove_container(name, force=True, v=True)
            except DockerNotFound:
                return
            except APIError as error:
                if "removal of container" not in explanation(error):
                    raise
                self._wait_until_removed(name)

    def _wait_until_removed(self, name: str) -> None:
        """Wait for somebody else's removal of the container."""
        try:
            self._api.wait(name, timeout=CALL_TIMEOUT, condition="removed")
        except DockerNotFound:
            return

    def list_containers(self, labels: Mapping[str, str]) -> Sequence[str]:
        """Return the names of all containers, running or ended, that carry *labels*."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with self._calling("list the containers"):
            found = self._api.containers(all=True, filters={"label": wanted})
        # A container being renamed or removed may have no name for a moment.
        return sorted(names[0].lstrip("/") for each in found if (names := each["Names"]))

    # Inside a running container

    def usage(self, name: str) -> Usage | None:
        """Return what the container uses now; None when it does not run.

        CPUs are the average since the last call, at first since the container's start.
        """
        with self._calling(f"measure {name}"):
            found = self._inspect(name)
            if found is None or not found["State"]["Running"]:
                return None
            try:
                stats: dict[str, Any] = self._api.stats(name, stream=False, one_shot=True)
            except DockerNotFound:
                return None
        at = moment(stats.get("read"))
        started_at = moment(found["State"]["StartedAt"])
        if at is None or started_at is None or not stats.get("memory_stats"):
            return None
        cpus = self._cpu.cpus(name, at, started_at, stats["cpu_stats"]["cpu_usage"]["total_usage"])
        gpus = self._gpu_usage(requested_gpus(found))
        return Usage(datetime.now(timezone.utc), cpus, memory_gb(stats["memory_stats"]), gpus)

    def execute(
        self, name: str, command: Sequence[str], sink: Callable[[Stream, bytes], None]
    ) -> ExecResult:
        """Run *command* in the running container; its output goes to *sink* as it comes."""
        with self._calling(f"run a command in {name}"):
            try:
                made = self._api.exec_create(name, list(command))
                output = self._api.exec_start(made["Id"], stream=True, demux=True)
            except APIError as error:
                if isinstance(error, DockerNotFound) or "is not running" in explanation(error):
                    raise NotFound(f"the run's container {name} does not run") from error
                raise
        for stream, payload in self._demultiplexed(output, name):
            sink(stream, payload)
        with self._calling(f"run a command in {name}"):
            exit_code = self._api.exec_inspect(made["Id"])["ExitCode"]
        # No exit code: the container, and the command with it, was killed.
        return ExecResult(137 if exit_code is None else int(exit_code))

    def _demultiplexed(self, output: Any, name: str) -> Iterator[tuple[Stream, bytes]]:
        with self._calling(f"run a command in {name}"):
            for out, err in output:
                if out:
                    yield Stream.STDOUT, out
                if err:
                    yield Stream.STDERR, err

    def read_files(self, name: str, path: str) -> Iterator[bytes]:
        """Yield the file or folder *path* as an uncompressed tar; the container may have ended.

        The tar's entries begin with the last part of *path*; those of the root with ``.``.
        """
        place = posixpath.normpath(posixpath.join(WORKFLOW, path))
        asked = f"{place}/." if place == WORKFLOW else place
        with self._calling(f"read {path} of {name}"):
            try:
                chunks, _ = self._api.get_archive(name, asked)
            except DockerNotFound as error:
                if "No such container" in explanation(error):
                    raise NotFound(f"the run's container {name} is not there any more") from error
                raise NotFound(f"the run has no file {path}") from error
        return self._chunks(chunks, f"read {path} of {name}")

    def _chunks(self, chunks: Iterator[bytes], doing: str) -> Iterator[bytes]:
        with self._calling(doing):
            yield from chunks

    def shell_command(self, name: str) -> Sequence[str]:
        """Return the argv that opens an interactive shell in the running container."""
        return ("docker", "--host", self.base_url, *shell_words(name))

    # The engine

    @property
    def _api(self) -> APIClient:
        """The docker SDK's client, made when first needed: it asks the engine for its version."""
        with self._lock:
            if self._client is None:
                self._client = APIClient(
                    base_url=self.base_url,
                    version="auto",
                    timeout=CALL_TIMEOUT,
                    max_pool_size=POOL_SIZE,
                )
            return self._client

    def _calling(self, doing: str) -> AbstractContextManager[None]:
        return translated(self.base_url, doing)

    def _inspect(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(self._api.inspect_container(name))
        except DockerNotFound:
            return None

    def _engine_life(self) -> EngineLife:
        """Find out what judges an interruption.

        The engine makes its default network anew whenever it starts, which is the only trace of
        its start in its API. A ping takes a new connection, unlike the client's calls: an engine
        that goes down still answers on those it has.
        """
        try:
            self.ping()
        except HostUnreachable as error:
            refused = isinstance(error.__cause__, (ConnectionRefusedError, FileNotFoundError))
            if refused and not self._forwarded:
                return EngineLife(leaving=True)
            raise
        live_restore = bool(self._api.info().get("LiveRestoreEnabled"))
        try:
            network = self._api.inspect_network("bridge")
        except DockerNotFound:
            return EngineLife(live_restore=live_restore)
        return EngineLife(started_at=moment(network["Created"]), live_restore=live_restore)


def shell_words(name: str) -> tuple[str, ...]:
    """Return what comes after ``docker`` in a command that opens a shell in container *name*."""
    return ("exec", "--interactive", "--tty", name, "/bin/sh", "-c", _SHELL)


def _image(spec: ContainerSpec) -> str:
    if spec.image is None:
        raise ContainerFailed(f"{spec.name} has no image, and a Docker Engine needs one")
    return spec.image
