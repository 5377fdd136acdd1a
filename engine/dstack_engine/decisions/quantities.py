"""How numbers, sizes and GPUs are said in sentences: "at least 4 CPUs", "24GB of GPU memory".

`requirements` and `capacity` say why an offer is refused or a job waits in these words.
"""

from __future__ import annotations

from collections.abc import Sequence

from dstack_engine.spec.resources import Gpu, IntRange, MemoryRange


def count_of(number: float, noun: str) -> str:
    """Return *number* with its noun, in the plural where it is not one: `1 GPU`, `2.5 CPUs`."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def size(size_gb: float) -> str:
    """Return a size given in GB: `512MB`, `24GB`, `140.4GB`, `1.5TB`."""
    if 0 < size_gb < 1:
        return f"{size_gb * 1024:.4g}MB"
    if 1024 <= size_gb < float("inf"):
        return f"{size_gb / 1024:.4g}TB"
    return f"{size_gb:.4g}GB"


def price(usd_per_hour: float) -> str:
    """Return a price given in USD per hour: `$2.00`; `$0.0125` where cents do not tell it."""
    cents = f"{usd_per_hour:.2f}"
    return f"${cents}" if abs(float(cents) - usd_per_hour) < 1e-9 else f"${usd_per_hour:.4g}"


def one_of(names: Sequence[str]) -> str:
    """Return names as a choice: `A10`, `A10 or A100`, `A10, A100 or H100`."""
    *head, last = names
    return f"{', '.join(head)} or {last}" if head else last


def sizes(wanted: MemoryRange) -> str:
    """Return a range of sizes: `16GB`, `at least 8GB`, `at most 1TB`, `8GB to 16GB`."""
    low = None if wanted.min is None else size(wanted.min)
    high = None if wanted.max is None else size(wanted.max)
    return _range(low, high)


def counts(wanted: IntRange) -> str:
    """Return a range of numbers: `2`, `at least 2`, `at most 4`, `2 to 4`."""
    low = None if wanted.min is None else str(wanted.min)
    high = None if wanted.max is None else str(wanted.max)
    return _range(low, high)


def cpus(wanted: IntRange) -> str:
    """Return a range of CPUs with its noun: `1 CPU`, `at least 4 CPUs`."""
    last = wanted.max if wanted.max is not None else wanted.min
    return f"{counts(wanted)} CPU{'' if last == 1 else 's'}"


def gpus(wanted: Gpu) -> str:
    """Return all that is asked of GPUs: `24GB of GPU memory`, `2 A100 GPUs with 80GB each`."""
    plain = wanted.name is None and wanted.vendor is None and wanted.compute_capability is None
    if plain and _is_one(wanted.count) and wanted.memory is not None and not wanted.total_memory:
        return f"{sizes(wanted.memory)} of GPU memory"
    return f"{gpu_number(wanted)}{_gpu_conditions(wanted)}"


def gpu_number(wanted: Gpu) -> str:
    """Return how many of which GPUs are asked: `1 GPU`, `2 A10 or A100 GPUs`, `4 amd GPUs`."""
    names = one_of(wanted.name) if wanted.name else (wanted.vendor or "")
    last = wanted.count.max if wanted.count.max is not None else wanted.count.min
    noun = f"{names} GPU".strip() + ("" if last == 1 else "s")
    return f"{counts(wanted.count)} {noun}"


def _gpu_conditions(wanted: Gpu) -> str:
    parts = []
    if wanted.memory is not None:
        parts.append(f"{sizes(wanted.memory)} of memory{'' if _is_one(wanted.count) else ' each'}")
    if wanted.total_memory is not None:
        parts.append(f"{sizes(wanted.total_memory)} of memory in all")
    if wanted.compute_capability is not None:
        parts.append(f"compute capability {capability(wanted.compute_capability)} or more")
    return f" with {' and '.join(parts)}" if parts else ""


def capability(version: tuple[int, int]) -> str:
    """Return a compute capability as NVIDIA writes it: `8.6`."""
    return f"{version[0]}.{version[1]}"


def _is_one(wanted: IntRange) -> bool:
    return wanted.min == 1 and wanted.max == 1


def _range(low: str | None, high: str | None) -> str:
    if low == high:
        return str(low)
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"{low} to {high}"
