"""What a container uses, from the Docker Engine's figures.

Called by the Docker host's `usage`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_GB = 1 << 30


@dataclass(frozen=True)
class CpuSample:
    """How much CPU time, in ns, a container had used at a time, and the CPUs found then."""

    at: datetime
    used_ns: int
    cpus: float


class CpuMeter:
    """Makes CPUs in use of each container's two last samples of CPU time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: dict[str, CpuSample] = {}

    def cpus(self, name: str, at: datetime, started_at: datetime, used_ns: int) -> float:
        """Return the CPUs in use since the last call (1.0 = one core busy), or since the start."""
        with self._lock:
            before = self._samples.get(name)
            if before is None or before.at < started_at or used_ns < before.used_ns:
                before = CpuSample(started_at, 0, 0.0)
            seconds = (at - before.at).total_seconds()
            # Asked twice within a moment, the first answer is the better one.
            cpus = (used_ns - before.used_ns) / 1e9 / seconds if seconds >= 0.05 else before.cpus
            if seconds >= 0.05:
                self._samples[name] = CpuSample(at, used_ns, cpus)
            return cpus

    def forget(self, name: str) -> None:
        """Drop what is known of a container."""
        with self._lock:
            self._samples.pop(name, None)


def memory_gb(stats: Mapping[str, Any]) -> float:
    """Return memory in use without the page cache that can be dropped, as `docker stats` does."""
    usage = int(stats.get("usage") or 0)
    details = stats.get("stats") or {}
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return max(usage - int(cache or 0), 0) / _GB


def requested_gpus(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the UUIDs of the GPUs that a container (as `inspect` shows it) was given."""
    requests = found["HostConfig"].get("DeviceRequests") or []
    return tuple(uuid for request in requests for uuid in request.get("DeviceIDs") or [])
