"""What a process-host job uses now: CPU and memory from `/proc`, its GPUs from nvidia-smi."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from dstack_engine.hosts import descendants
from dstack_engine.hosts.gpus import gpu_usage
from dstack_engine.records.sightings import Usage

_GB = 1 << 30


@dataclass(frozen=True)
class _Sample:
    at: float
    cpu_seconds: float


class UsageMeter:
    """Measures jobs; CPU use is the mean since the job was measured last."""

    def __init__(self) -> None:
        self._last: dict[str, _Sample] = {}
        self._lock = threading.Lock()

    def measure(self, name: str, supervisor: int, started_ns: int, gpus: Sequence[str]) -> Usage:
        """Return what the processes below *supervisor* use; CPU from `utime`, memory as RSS."""
        now = time.time()
        processes = descendants.descendants(supervisor)
        sample = _Sample(now, _cpu_seconds(supervisor, processes))
        with self._lock:
            last = self._last.get(name, _Sample(started_ns / 1e9, 0.0))
            self._last[name] = sample
        elapsed = max(sample.at - last.at, 0.001)
        return Usage(
            at=datetime.fromtimestamp(now, timezone.utc),
            cpus=max(sample.cpu_seconds - last.cpu_seconds, 0.0) / elapsed,
            memory_gb=descendants.resident_bytes(processes) / _GB,
            gpus=gpu_usage(gpus) if gpus else (),
        )

    def forget(self, name: str) -> None:
        """Drop what is remembered of a job."""
        with self._lock:
            self._last.pop(name, None)


def _cpu_seconds(supervisor: int, processes: list[descendants.Process]) -> float:
    """Return the CPU time that a job has used, its ended processes included."""
    ticks = sum(process.cpu_ticks + process.reaped_ticks for process in processes)
    itself = descendants.look(supervisor)
    ticks += itself.reaped_ticks if itself is not None else 0
    return ticks / descendants.TICKS_PER_SECOND
