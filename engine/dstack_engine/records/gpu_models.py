"""GPUs by what catalogs call them: a driver's long name made short, its memory made whole.

Pure. For whoever reads what a driver tells: `backends.gpus` on this computer, `hosts.machine_gpus`
on others.
"""

from __future__ import annotations

import math
import re

#: The id of an AMD GPU: this and the kernel's file for it, as in ``amd:renderD128``.
AMD_PREFIX = "amd:"

#: What each model is sold with, in GB, and its compute capability (NVIDIA's data sheets and
#: developer.nvidia.com/cuda-gpus, 2025-11). The driver keeps some of the memory and tells less,
#: yet who asks 24GB means an L4.
KNOWN: dict[str, tuple[tuple[float, ...], tuple[int, int]]] = {
    "A10": ((24,), (8, 6)),
    "A100": ((40, 80), (8, 0)),
    "A10G": ((24,), (8, 6)),
    "A16": ((16,), (8, 6)),
    "A2": ((16,), (8, 6)),
    "A30": ((24,), (8, 0)),
    "A40": ((48,), (8, 6)),
    "A4000": ((16,), (8, 6)),
    "A5000": ((24,), (8, 6)),
    "A6000": ((48,), (8, 6)),
    "B200": ((180, 192), (10, 0)),
    "GH200": ((96, 144), (9, 0)),
    "H100": ((64, 80, 96), (9, 0)),
    "H100NVL": ((94,), (9, 0)),
    "H200": ((141,), (9, 0)),
    "H200NVL": ((141,), (9, 0)),
    "L4": ((24,), (8, 9)),
    "L40": ((48,), (8, 9)),
    "L40S": ((48,), (8, 9)),
    "P100": ((12, 16), (6, 0)),
    "P4": ((8,), (6, 1)),
    "P40": ((24,), (6, 1)),
    "RTX3090": ((24,), (8, 6)),
    "RTX4090": ((24,), (8, 9)),
    "RTX5090": ((32,), (12, 0)),
    "RTX6000Ada": ((48,), (8, 9)),
    "T4": ((16,), (7, 5)),
    "V100": ((16, 32), (7, 0)),
}

#: How much less than it is sold with a GPU may tell: a B200 of 192GB tells 179GB.
_KEPT_BY_DRIVER = 0.1


def short_name(full: str) -> str:
    """Return a GPU's name as catalogs and configurations write it: `H100`, `RTX4090`, `L40S`."""
    name = re.sub(r"\b(NVIDIA|Tesla|Quadro|GeForce|GRID|Graphics)\b", " ", full)
    name = re.sub(r"\bMIG\b.*", " ", name)
    name = re.sub(r"\bRTX (?=A\d)", " ", name)
    name = re.sub(r"(?i)\bsuper\b", "SUPER", name)
    name = re.sub(r"\bAda Generation\b", "Ada", name)
    name = re.sub(r"\bBlackwell\b.*", " ", name)
    # How it is built in or with how much memory belongs to the machine, not to the model.
    name = re.sub(r"[ -](SXM\d*|PCIE?|PCIe|HBM\w*|NVLink|Laptop GPU|Design)\b", _built_in, name)
    name = re.sub(r"[ -]\d+ ?GB\b", " ", name)
    name = re.sub(r"-\d+[A-Z]?\b", " ", name)
    return "".join(name.split())


def _built_in(found: re.Match[str]) -> str:
    return "Laptop" if found[1] == "Laptop GPU" else " "


def nominal_memory(name: str, reported_mib: float) -> float:
    """Return what the GPU is sold with, in GB, for what its driver reports, in MiB.

    For a model that is not known, the reported size rounded up to a whole GB.
    """
    reported = reported_mib / 1024
    for size in KNOWN.get(name, ((), None))[0]:
        if size * (1 - _KEPT_BY_DRIVER) <= reported <= size * 1.01:
            return float(size)
    return float(math.ceil(reported))


def known_capability(name: str) -> tuple[int, int] | None:
    """Return the compute capability of a model that is known."""
    return KNOWN[name][1] if name in KNOWN else None


def read_capability(text: str) -> tuple[int, int] | None:
    """Return the compute capability that ``8.9`` stands for; None for anything else."""
    found = re.fullmatch(r"(\d{1,3})\.(\d{1,3})", text)
    return (int(found[1]), int(found[2])) if found else None
