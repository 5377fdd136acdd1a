"""What the engine tells its clients: the shapes of the API's answers and of its event stream."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dstack_engine.records.events import Event, Frame, Progress
from dstack_engine.records.publication import ModelUsage, ServiceReport
from dstack_engine.records.sightings import Usage

#: Client and engine must agree on it; raised by one with every change that breaks the other.
PROTOCOL = 4


@dataclass(frozen=True)
class EngineInfo:
    """The running engine."""

    version: str
    protocol: int
    pid: int
    started_at: datetime
    home: str
    active_runs: int
    #: Resident memory of the engine's process, in MB.
    memory_mb: float


@dataclass(frozen=True)
class EngineSettings:
    """The settings of the engine that its clients must know."""

    #: The most that a project's files may hold together, in bytes, and how many they may be.
    files_limit: int
    max_files: int


@dataclass(frozen=True)
class PruneReport:
    """What `prune` took away."""

    runs: int
    containers: int
    files_bytes: int
    logs_bytes: int


@dataclass(frozen=True)
class GatewayView:
    """Where services and models are reached."""

    #: Its port on loopback; None while no gateway runs.
    port: int | None

    def url_of(self, run: str) -> str:
        """Return the address of a service's own name, which browsers resolve to this computer."""
        return f"http://{run}.localhost:{self.port}/"

    def path_url_of(self, run: str) -> str:
        """Return a service's address for programs that do not resolve ``*.localhost``."""
        return f"http://127.0.0.1:{self.port}/services/{run}/"

    @property
    def models_url(self) -> str:
        """Return the base URL of the models' OpenAI interface."""
        return f"http://127.0.0.1:{self.port}/v1"


@dataclass(frozen=True)
class ModelView:
    """A model that is served, by one service or several."""

    name: str
    runs: tuple[str, ...]
    ready_replicas: int
    usage: tuple[ModelUsage, ...] = ()


@dataclass(frozen=True)
class RecordChanged:
    """A run, job, instance or fleet was saved."""

    cursor: str
    event: Event


@dataclass(frozen=True)
class LogWritten:
    """A job printed something."""

    cursor: str
    run: str
    #: The log's name, which is its job's container's.
    log: str
    frame: Frame


@dataclass(frozen=True)
class Printed:
    """A piece of one run's output, of a log that is read by itself."""

    #: Which attempt printed it: the offsets of another begin at 0 again.
    job: str
    frame: Frame


@dataclass(frozen=True)
class Progressed:
    """A job's preparation went on."""

    progress: Progress


@dataclass(frozen=True)
class UsageSeen:
    """A job's use was measured."""

    job: str
    usage: Usage


@dataclass(frozen=True)
class CaughtUp:
    """Everything known so far has been told; from here on it is live."""

    cursor: str


@dataclass(frozen=True)
class ServiceSeen:
    """A service's traffic was measured; told once a second while it changes."""

    report: ServiceReport


Update = RecordChanged | LogWritten | Progressed | UsageSeen | ServiceSeen | CaughtUp
