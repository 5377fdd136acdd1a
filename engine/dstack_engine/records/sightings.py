"""What a host just saw of a job's container; never stored as truth."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dstack_engine.enums import StrEnum


class Container(StrEnum):
    """What there is of a container."""

    ABSENT = "absent"  #: none of that name
    CREATED = "created"  #: made, not started
    UP = "up"  #: running
    EXITED = "exited"  #: has run; its exit is known


@dataclass(frozen=True)
class Sighting:
    """One look at one container."""

    container: Container
    exit_code: int | None = None
    #: The signal that ended it, where one did and it was not for memory.
    signal: int | None = None
    out_of_memory: bool = False
    #: It ran longer than its max_duration and its supervisor ended it.
    timed_out: bool = False
    #: Its host went down under it: the Docker Engine or its supervisor was stopped or killed.
    interrupted: bool = False
    error: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True)
class Usage:
    """What a running job uses now: CPUs (1.0 = one core busy), memory in GB, GPUs."""

    at: datetime
    cpus: float
    memory_gb: float
    gpus: tuple[GpuUsage, ...] = ()


@dataclass(frozen=True)
class GpuUsage:
    """What a running job's GPU does: utilization 0–1, memory in GB."""

    uuid: str
    utilization: float
    memory_gb: float
