"""What this computer's GPUs do, as `nvidia-smi` says: for the jobs that were given some.

Called by the hosts' `usage` and `doctor`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from dstack_engine.records.sightings import GpuUsage

#: Seconds; a driver in trouble can let `nvidia-smi` hang for ever.
TIMEOUT = 5.0
#: What `parse_usage` reads the answer of.
USAGE_QUERY = (
    "nvidia-smi",
    "--query-gpu=uuid,utilization.gpu,memory.used",
    "--format=csv,noheader,nounits",
)


def gpu_usage(uuids: Sequence[str]) -> tuple[GpuUsage, ...]:
    """Return what the GPUs *uuids* do; those that cannot be asked are left out."""
    if not uuids:
        return ()
    try:
        said = subprocess.run(
            [*USAGE_QUERY, f"--id={','.join(uuids)}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(found for line in said.splitlines() if (found := parse_usage(line)))


def seen_gpus() -> tuple[str, ...]:
    """Return this computer's NVIDIA GPUs in nvidia-smi's words (``NVIDIA L4``); none without it.

    Raises `RuntimeError`, saying why, when nvidia-smi is here but fails or hangs.
    """
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(
            query,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
    except (FileNotFoundError, PermissionError):
        return ()
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"nvidia-smi does not answer within {TIMEOUT:.0f} s") from error
    except OSError as error:
        raise RuntimeError(f"nvidia-smi cannot be run: {error}") from error
    lines = [line.strip() for line in said.stdout.splitlines() if line.strip()]
    if said.returncode:
        why = (lines or said.stderr.strip().splitlines() or ["no word of why"])[0]
        raise RuntimeError(f"nvidia-smi fails: {why[:200]}")
    return tuple(lines)


def parse_usage(line: str) -> GpuUsage | None:
    """Return what one line says (``GPU-…, 37, 1024``; percent and MiB); None when it is unclear.

    A GPU that is divided says ``[N/A]`` for its utilization, which counts as 0.
    """
    words = [word.strip() for word in line.split(",")]
    if len(words) != 3 or not words[0].startswith("GPU-"):
        return None
    utilization, memory = (_number(word) for word in words[1:])
    return GpuUsage(words[0], utilization / 100, memory / 1024)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
