"""Durations, money, sizes and times as people read them. Called by every view."""

from __future__ import annotations

from datetime import datetime, timedelta

from dstack_engine.records.offers import Gpu, MachineShape


def duration_text(duration: timedelta | float) -> str:
    """Return a duration (or seconds) in its two largest units: ``3m 12s``, ``2d 4h``."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    whole = max(int(seconds), 0)
    for unit, size, next_unit, next_size in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size}{unit} {rest}{next_unit}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"


def ago_text(at: datetime, now: datetime) -> str:
    """Return how long ago it was: ``now``, ``5s ago``, ``2h 10m ago``."""
    passed = now - at
    return "now" if passed < timedelta(seconds=1) else f"{duration_text(passed)} ago"


def money_text(dollars: float) -> str:
    """Return an amount in USD: ``$0``, ``$3.10``, and two significant digits below a cent."""
    if dollars == 0:
        return "$0"
    if abs(dollars) < 0.01:
        return f"${dollars:.2g}" if abs(dollars) >= 0.0001 else "<$0.0001"
    return f"${dollars:,.2f}"


def hourly_text(dollars: float) -> str:
    """Return a price in USD per hour: ``$0``, ``$3.10/h``."""
    return "$0" if dollars == 0 else f"{money_text(dollars)}/h"


def size_text(gigabytes: float) -> str:
    """Return a size given in GB: ``512MB``, ``8GB``, ``1.5TB`` (1 TB = 1024 GB)."""
    if gigabytes >= 1024:
        return f"{gigabytes / 1024:.1f}".removesuffix(".0") + "TB"
    if 0 < gigabytes < 1:
        return f"{gigabytes * 1024:.0f}MB"
    return f"{gigabytes:.1f}".removesuffix(".0") + "GB"


def resources_text(shape: MachineShape) -> str:
    """Return what a machine has: ``2xCPU, 8GB, 1xH200 (141GB), 100GB (disk)``."""
    parts = [f"{shape.cpus}xCPU", size_text(shape.memory_gb)]
    counts: dict[tuple[str, float], int] = {}
    for gpu in shape.gpus:
        counts[_kind(gpu)] = counts.get(_kind(gpu), 0) + 1
    parts += [f"{count}x{name} ({size_text(gb)})" for (name, gb), count in counts.items()]
    if shape.disk_gb is not None:
        parts.append(f"{size_text(shape.disk_gb)} (disk)")
    return ", ".join(parts)


def seconds_text(seconds: float) -> str:
    """Return a short time with two or three digits: ``0.8 ms``, ``14 ms``, ``2.3 s``, ``45 s``."""
    if seconds < 0.001:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def clock_text(at: datetime) -> str:
    """Return a time of day in UTC: ``14:03:07``."""
    return at.strftime("%H:%M:%S")


def moment_text(at: datetime) -> str:
    """Return a date and time in UTC: ``2026-11-21 14:03:07 UTC``."""
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: ``1 offer``, ``1,204 offers``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _kind(gpu: Gpu) -> tuple[str, float]:
    return gpu.name, gpu.memory_gb
