"""The contract that every host keeps: run a job's container on a machine, look at it, stop it.

A host knows nothing of runs, offers or the store; the job loop calls it from worker threads, so
hosts are plain blocking code. Every verb may be called again after a crash of the engine: the
container's name, which is the job's, prevents doubles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from dstack_engine.records.events import Stream
from dstack_engine.records.findings import Finding
from dstack_engine.records.instances import Instance
from dstack_engine.records.machines import Examination
from dstack_engine.records.offers import HostKind
from dstack_engine.records.routes import Route
from dstack_engine.records.sightings import Sighting, Usage


@dataclass(frozen=True)
class RegistryAuth:
    """Name and password for a private registry; never shown."""

    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True)
class Limits:
    """Ceilings that the host really sets, sizes in GB; None is unlimited. GPUs by UUID."""

    cpus: float | None = None
    memory_gb: float | None = None
    shm_gb: float | None = None
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class ContainerSpec:
    """Everything that a host needs to run one attempt of one job."""

    #: The container's name: the same for the same attempt, so that a repeat finds it.
    name: str
    #: Sorted facts to find it again by: run, job id, engine's home.
    labels: Mapping[str, str]
    #: The commands as one bash script that fails like a script; None runs the image's own command.
    script: str | None
    #: None on the process host.
    image: str | None = None
    #: Interpreter version for the process host, e.g. ``3.11``; None is the user's own.
    python: str | None = None
    entrypoint: tuple[str, ...] | None = None
    registry_auth: RegistryAuth | None = field(default=None, repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Relative to the project's root in the container.
    working_dir: str = "."
    home_dir: str = "/root"
    user: str | None = None
    privileged: bool = False
    limits: Limits = Limits()
    routes: tuple[Route, ...] = ()
    #: The container is ended after so long, also while no engine lives (where the host can).
    max_duration: timedelta | None = None
    #: Between the polite signal and the hard one.
    stop_grace: timedelta = timedelta(seconds=10)
    #: Whether it has the machine's own network: nodes of a cluster reach each other by it.
    host_network: bool = False


class Files(Protocol):
    """The project's files of one run, ready to be put into a working directory."""

    def write_tar(self, target: BinaryIO) -> None:
        """Write all files as an uncompressed tar stream, owner and times of now."""

    def copy_to(self, folder: Path) -> None:
        """Put copies of all files under *folder*; repeatable."""


class Layer(Protocol):
    """Files as a layer of an image."""

    @property
    def size(self) -> int:
        """Return how long its tar is, in bytes."""

    def write_tar(self, target: BinaryIO) -> None:
        """Write it as an uncompressed tar, the same each time."""


@runtime_checkable
class TellsChanges(Protocol):
    """Files that know what is different in them from those of an earlier run."""

    @property
    def digest(self) -> str:
        """Return what names exactly these files."""

    @property
    def size(self) -> int:
        """Return the bytes of all contents."""

    def layer(self, folder: str, since: str | None = None) -> Layer | None:
        """Return what turns the files *since* (a digest; None: no files) into these, in *folder*.

        None where that cannot be told: those are not known any more, or names are in the way.
        """


#: Called with a step ("pulling"), how far it is (0–1 or None) and a few words.
ProgressSink = Callable[[str, float | None, str], None]


@dataclass(frozen=True)
class ExecResult:
    """The end of a command run in a container."""

    exit_code: int


class Host(Protocol):
    """The means of running containers on one machine.

    Every method may block and may be repeated. When the machine or its Docker Engine does not
    answer, each raises `HostUnreachable`, which is worth trying again.
    """

    kind: HostKind

    def prepare(self, spec: ContainerSpec, progress: ProgressSink) -> None:
        """Fetch what the container needs: the image, the interpreter. Blocks until it is here.

        Raises `ImageUnavailable`, `PythonUnavailable`, `DiskFull`. Called by the job loop before
        `start`; cheap when everything is there already.
        """

    def start(self, spec: ContainerSpec, files: Files | None, log: Path) -> None:
        """Create the container, put *files* into its working directory, start it.

        Repeated, it finishes what a crash left half-done and leaves a running or ended container
        of that name alone. *log* is the folder of the job's log (see `hosts.logs`): its output
        goes there. Raises `PortTaken`, `DiskFull`, `ContainerFailed`, `ImageUnavailable`.
        """

    def attend(self, name: str, log: Path) -> None:
        """Block until the container has ended and all its output lies in *log*.

        Called by a thread of the job loop for every running container, again after every restart
        of the engine: output is neither lost nor repeated. Returns at once for one that is absent.
        """

    def look(self, name: str) -> Sighting:
        """Return what there is of the container now."""

    def stop(self, name: str, grace: timedelta) -> None:
        """End the container: politely, and hard after *grace*; nothing of it runs on return.

        A *grace* of zero is at once. Does nothing when it is absent or has ended.
        """

    def remove(self, name: str) -> None:
        """End the container at once and take away all of it, files included (not its log)."""

    def list_containers(self, labels: Mapping[str, str]) -> Sequence[str]:
        """Return the names of all containers, running or ended, that carry *labels*."""

    def usage(self, name: str) -> Usage | None:
        """Return what the container uses now; None when it does not run."""

    def execute(
        self, name: str, command: Sequence[str], sink: Callable[[Stream, bytes], None]
    ) -> ExecResult:
        """Run *command* in the running container, its environment and working directory.

        Output goes to *sink* as it comes. Raises `NotFound` when the container does not run.
        """

    def read_files(self, name: str, path: str) -> Iterator[bytes]:
        """Yield the file or folder *path* as an uncompressed tar; the container may have ended.

        A relative *path* is of the project's root. Raises `NotFound` for a missing path or
        container.
        """


class Machines(Protocol):
    """The machines that are reached by SSH: looks into them, and gives the host on each.

    Every method may block (each says how long), may be repeated, and is safe to call from many
    threads. An instance that was never seen before is no error: it is reached then.
    """

    def examine(self, instance: Instance) -> Examination:
        """Look into the machine, in 30 s at most; never raises for what is wrong with it.

        What is wrong is in the findings, each with its fix; the first sight pins its host key.
        """

    def ping(self, instance: Instance) -> str | None:
        """Return, in 5 s at most, why its Docker Engine does not answer; None where it does.

        Reaches it anew where the connection was lost, and opens its forwards again.
        """

    def host(self, instance: Instance) -> Host:
        """Return the host on that machine, the same for as long as this process lives."""

    def release(self, instance: Instance) -> None:
        """Take away all that is ours from the machine and this computer: containers, connection.

        One that was never claimed is not asked. Raises `HostUnreachable`; `forget` is for a machine
        that will never answer again.
        """

    def forget(self, instance: Instance) -> None:
        """Close the connection and forget the pinned host key; the machine is not asked."""

    def close(self) -> None:
        """End what belongs to this process only: connections stay, and are taken up again."""


@runtime_checkable
class KeepsFiles(Protocol):
    """A host that can take a project's files before a container is started with them."""

    def send_files(self, spec: ContainerSpec, files: Files, progress: ProgressSink) -> None:
        """Send what the machine lacks of *files*; blocks until it is there. Repeatable.

        Does nothing where `start` sends them itself. Called by the job loop between `prepare` and
        `start`; raises what `start` raises.
        """


@runtime_checkable
class KnowsImages(Protocol):
    """A host that can tell before submitting whether it has an image."""

    def has_image(self, image: str) -> bool:
        """Tell whether *image* is on the machine already."""


@runtime_checkable
class OpensShells(Protocol):
    """A host whose containers can be entered by a terminal on this computer."""

    def shell_command(self, name: str) -> Sequence[str]:
        """Return the argv that opens an interactive shell in the running container."""


@runtime_checkable
class Examines(Protocol):
    """A host that can say what is well and what is missing, for `doctor`."""

    def doctor(self) -> Iterator[Finding]:
        """Yield what was looked at; bounded in time, raises nothing."""
