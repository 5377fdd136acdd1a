"""Which GPUs fit what is asked, and which of them a job takes. Pure.

`requirements` asks whether a machine could ever serve a run, `capacity` which free GPUs it gets.
"""

from __future__ import annotations

from collections.abc import Sequence

from dstack_engine.records.offers import Gpu
from dstack_engine.spec.resources import Gpu as GpuSpec


def has_name(gpu: Gpu, wanted: GpuSpec) -> bool:
    """Tell whether *gpu* is one of the named ones; names are compared without regard to case."""
    return wanted.name is None or gpu.name.lower() in {name.lower() for name in wanted.name}


def vendor_of(wanted: GpuSpec) -> str | None:
    """Return the maker that is meant: NVIDIA where neither maker nor name is given."""
    return wanted.vendor or ("nvidia" if wanted.name is None else None)


def has_vendor(gpu: Gpu, wanted: GpuSpec) -> bool:
    """Tell whether *gpu* is of the maker that is meant."""
    return vendor_of(wanted) in (None, gpu.vendor)


def has_memory(gpu: Gpu, wanted: GpuSpec) -> bool:
    """Tell whether *gpu* alone has the memory asked for."""
    return wanted.memory is None or gpu.memory_gb in wanted.memory


def has_capability(gpu: Gpu, wanted: GpuSpec) -> bool:
    """Tell whether *gpu* is known to be an NVIDIA GPU of the compute capability asked for."""
    if wanted.compute_capability is None:
        return True
    known = gpu.compute_capability
    return gpu.vendor == "nvidia" and known is not None and known >= wanted.compute_capability


def fits(gpu: Gpu, wanted: GpuSpec) -> bool:
    """Tell whether *gpu* by itself is what is asked; of a TPU only maker and name are compared."""
    if not (has_vendor(gpu, wanted) and has_name(gpu, wanted)):
        return False
    return gpu.vendor == "google" or (has_memory(gpu, wanted) and has_capability(gpu, wanted))


def choose_gpus(
    free: Sequence[Gpu], wanted: GpuSpec, *, share: int | None = None
) -> tuple[Gpu, ...] | None:
    """Return the GPUs of *free* that a job takes: as few and as small as it asks; None if too few.

    Of a *share* of a machine that is the job's own anyway it takes as many as it asks, up to that
    many. At least one is taken where the count has no lower bound; a count from 0 takes none of
    what is shared by amount, unless `total_memory` needs some.
    """
    fitting = sorted(
        (gpu for gpu in free if fits(gpu, wanted)), key=lambda gpu: (gpu.memory_gb, gpu.name)
    )
    least = wanted.count.min
    if least is None:
        least = min(1, wanted.count.max or 0)
    most = len(fitting) if share is None else min(share, len(fitting))
    if wanted.count.max is not None:
        most = min(wanted.count.max, most)
    numbers = range(least, most + 1)
    for number in numbers if share is None else reversed(numbers):
        for start in range(len(fitting) - number + 1):
            chosen = tuple(fitting[start : start + number])
            if wanted.total_memory is None or total_memory(chosen) in wanted.total_memory:
                return chosen
    return None


def total_memory(gpus: Sequence[Gpu]) -> float:
    """Return the memory of all *gpus* together, in GB."""
    return sum(gpu.memory_gb for gpu in gpus)
