"""The backend `local`: this computer, at $0.

It gives two offers where a Docker Engine answers, `local/docker` and then `local/process`, and the
second alone where none does. Nothing is rented, so its other verbs only tell what is true.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import psutil

from dstack_engine.backends.gpus import GpuReader, GpuReport
from dstack_engine.errors import NoCapacity
from dstack_engine.records.instances import InstanceName, Machine
from dstack_engine.records.offers import HostKind, MachineShape, Offer, OfferId

#: The backend's name; also its one region, and its one machine.
LOCAL = "local"

_BYTES_IN_GB = 1 << 30

#: Where Docker Engines keep images and containers unless told otherwise.
_DOCKER_FOLDER = Path("/var/lib/docker")

#: Where the kernel tells the limits of the group of processes that we are in, if it sets any.
_CGROUPS = Path("/sys/fs/cgroup")

_NO_DOCKER_GPUS = (
    "its GPUs are not given to containers: the Docker Engine lacks the NVIDIA Container Toolkit"
)


def _no() -> bool:
    return False


class LocalBackend:
    """This computer. Every method may be called from any thread."""

    name = LOCAL

    def __init__(
        self,
        docker_reachable: Callable[[], bool],
        *,
        docker_gives_gpus: Callable[[], bool] = _no,
        gpus: Callable[[], GpuReport] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Offer this computer.

        *docker_reachable* tells at once whether a Docker Engine answers, *docker_gives_gpus*
        whether it can put a GPU into a container. *folder* is on the disk that jobs write to: the
        engine's home.
        """
        self._docker_reachable = docker_reachable
        self._docker_gives_gpus = docker_gives_gpus
        self._gpus = gpus or GpuReader()
        self._folder = folder or Path.home()

    def offers(self) -> Iterable[Offer]:
        """Return this computer as it is now: by Docker first, then by plain processes."""
        report = self._gpus()
        if self._docker_reachable():
            yield self._docker_offer(report)
        yield self._process_offer(report)

    def create(self, offer: Offer, name: InstanceName) -> Machine:
        """Return this computer, which is there already; raise `NoCapacity` for another one."""
        if offer.backend != LOCAL:
            raise NoCapacity(LOCAL, offer.id)
        return Machine(name, self._shape(self._gpus(), self._folder), ready=True)

    def describe(self, name: InstanceName) -> Machine | None:
        """Return this computer: it is as ready as whoever asks."""
        return Machine(name, self._shape(self._gpus(), self._folder), ready=True)

    def terminate(self, name: InstanceName) -> None:
        """Do nothing: this computer stays."""

    def _docker_offer(self, report: GpuReport) -> Offer:
        shape = self._shape(report, _DOCKER_FOLDER)
        remarks = report.remarks
        if report.gpus and not self._docker_gives_gpus():
            shape = replace(shape, gpus=())
            remarks = (*remarks, _NO_DOCKER_GPUS)
        return _offer(HostKind.DOCKER, shape, remarks)

    def _process_offer(self, report: GpuReport) -> Offer:
        shape = self._shape(report, self._folder)
        return _offer(HostKind.PROCESS, shape, report.remarks)

    def _shape(self, report: GpuReport, folder: Path) -> MachineShape:
        return MachineShape(
            cpus=count_cpus(),
            memory_gb=memory_gb(),
            disk_gb=free_disk_gb(folder, self._folder),
            gpus=report.gpus,
        )


def _offer(host: HostKind, shape: MachineShape, remarks: tuple[str, ...]) -> Offer:
    return Offer(
        id=OfferId(f"{LOCAL}/{host}"),
        backend=LOCAL,
        region=LOCAL,
        instance_type=str(host),
        host=host,
        shape=shape,
        price=0.0,
        remarks=remarks,
    )


def count_cpus(cgroups: Path = _CGROUPS) -> int:
    """Return how many CPUs this process may use: by its affinity, and its group's quota."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:  # macOS has no affinity.
        count = os.cpu_count() or 1
    quota = _cpu_quota(cgroups)
    return count if quota is None else max(1, min(count, int(quota + 0.5)))


def memory_gb(cgroups: Path = _CGROUPS) -> float:
    """Return the memory of this computer, or of our group of processes if that is less, in GB."""
    total = psutil.virtual_memory().total
    for limit_file in (cgroups / "memory.max", cgroups / "memory" / "memory.limit_in_bytes"):
        limit = _first_word(limit_file)
        if limit.isdigit() and 0 < int(limit) < total:
            total = int(limit)
    return round(total / _BYTES_IN_GB, 1)


def free_disk_gb(folder: Path, otherwise: Path) -> float | None:
    """Return what is free on the disk of *folder*, in GB; of *otherwise* where that is not ours."""
    for path in (folder, otherwise, *otherwise.parents):
        try:
            return round(shutil.disk_usage(path).free / _BYTES_IN_GB, 1)
        except OSError:
            continue
    return None


def _cpu_quota(cgroups: Path) -> float | None:
    """Return the CPUs that our group of processes may use in all, if the kernel limits it."""
    words = _words(cgroups / "cpu.max")
    if len(words) != 2:
        cpu = cgroups / "cpu"
        words = [*_words(cpu / "cpu.cfs_quota_us"), *_words(cpu / "cpu.cfs_period_us")]
    if len(words) != 2 or not all(word.isdigit() for word in words) or words[1] == "0":
        return None  # "max" or -1: no limit
    return int(words[0]) / int(words[1])


def _first_word(path: Path) -> str:
    return (_words(path) or [""])[0]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
