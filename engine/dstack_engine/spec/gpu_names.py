"""The GPUs that are commonly rented, by the names that configurations know them by.

Completion offers them beside what is offered at present; a configuration may name any other.
"""

from __future__ import annotations

from typing import Final

GPU_NAMES: Final[tuple[str, ...]] = (
    "A10",
    "A100",
    "A10G",
    "A16",
    "A2",
    "A30",
    "A40",
    "A4000",
    "A5000",
    "A6000",
    "B200",
    "B300",
    "GB200",
    "GH200",
    "H100",
    "H100NVL",
    "H200",
    "H200NVL",
    "L4",
    "L40",
    "L40S",
    "MI210",
    "MI250X",
    "MI300A",
    "MI300X",
    "MI325X",
    "P100",
    "P4",
    "P40",
    "RTX3090",
    "RTX4090",
    "RTX5090",
    "RTX6000Ada",
    "RTXPRO6000",
    "T4",
    "V100",
    "tpu-v5litepod-4",
    "tpu-v6e-4",
)
