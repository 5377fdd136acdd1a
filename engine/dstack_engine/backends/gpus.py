"""The NVIDIA GPUs of this computer, as `nvidia-smi` tells them.

`backends.local` offers them. No nvidia-smi means no GPU; one that fails or hangs is given up after
a while, and why is said beside the offer.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from dstack_engine.records.gpu_models import (
    known_capability,
    nominal_memory,
    read_capability,
    short_name,
)
from dstack_engine.records.offers import Gpu

#: How long nvidia-smi may take, in seconds: without persistence mode the driver of eight GPUs
#: takes several to wake.
TIMEOUT = 10.0

#: How long an answer is good, in seconds: GPUs come and go with a reboot, or fall off the bus.
KEEP = 60.0

#: How long a failure is remembered, in seconds, so that every plan does not wait for it.
KEEP_FAILURE = 15.0

_FIELDS = ("uuid", "name", "memory.total", "mig.mode.current", "compute_cap")


@dataclass(frozen=True)
class GpuReport:
    """The GPUs that could be asked, and what else there is to say of them."""

    gpus: tuple[Gpu, ...] = ()
    remarks: tuple[str, ...] = ()
    #: nvidia-smi did not answer as it should.
    failed: bool = False


class GpuReader:
    """Asks nvidia-smi, and remembers the answer for a short while. Any thread may call it."""

    def __init__(
        self,
        command: str = "nvidia-smi",
        *,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Ask *command*, found on the PATH or a path itself; *clock* tells seconds."""
        self._command = command
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._known: tuple[float, GpuReport] | None = None

    def __call__(self) -> GpuReport:
        """Return the GPUs of this computer; blocks while nvidia-smi does."""
        with self._lock:
            if self._known is None or self._clock() >= self._known[0]:
                report = self._ask()
                keep = KEEP_FAILURE if report.failed else KEEP
                self._known = (self._clock() + keep, report)
            return self._known[1]

    def _ask(self) -> GpuReport:
        path = shutil.which(self._command)
        if path is None:
            return GpuReport()
        try:
            fields: Sequence[str] = _FIELDS
            done = self._query(path, fields)
            if done.returncode != 0 and "not a valid field" in done.stdout + done.stderr:
                # Drivers before 2021 know no compute_cap; the table above does.
                fields = _FIELDS[:-1]
                done = self._query(path, fields)
        except subprocess.TimeoutExpired:
            return _failure(f"nvidia-smi did not answer in {self._timeout:g} s")
        except OSError as error:
            return _failure(f"nvidia-smi could not be started: {error.strerror}")
        if done.returncode != 0:
            words = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
            # "No devices were found" is an answer: a driver without a GPU.
            if "No devices were found" in done.stdout + done.stderr:
                return GpuReport()
            return _failure(f"nvidia-smi failed (exit code {done.returncode}): {words[0][:200]}")
        return parse_gpus(done.stdout, fields)

    def _query(self, path: str, fields: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [path, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=self._timeout,
            text=True,
            errors="replace",
            check=False,
        )


def _failure(why: str) -> GpuReport:
    return GpuReport(remarks=(f"its GPUs are not known: {why}",), failed=True)


def parse_gpus(text: str, fields: Sequence[str] = _FIELDS) -> GpuReport:
    """Return the GPUs in nvidia-smi's CSV *text*, whose columns are *fields*."""
    gpus: list[Gpu] = []
    remarks: list[str] = []
    for line in filter(str.strip, text.splitlines()):
        values = [value.strip() for value in line.split(",")]
        row = dict(zip(fields, values, strict=False))
        name = short_name(row.get("name", ""))
        reported = _number(row.get("memory.total", ""))
        if len(values) != len(fields) or not name or reported is None:
            remarks.append(f"one GPU is not offered, nvidia-smi says of it: {line.strip()[:200]}")
        elif row["mig.mode.current"].lower() == "enabled":
            remarks.append(f"one {name} is not offered: it is split into parts (MIG)")
        else:
            capability = read_capability(row.get("compute_cap", "")) or known_capability(name)
            memory = nominal_memory(name, reported)
            gpus.append(Gpu(name, memory, "nvidia", row["uuid"], capability))
    return GpuReport(tuple(gpus), tuple(remarks))


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d+)?", text) else None
