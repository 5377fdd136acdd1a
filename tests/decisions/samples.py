"""Offers, configurations and jobs that the tests of placement speak of."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from dstack_engine.records.jobs import Job, JobId, JobStatus, Reservation
from dstack_engine.records.offers import Availability, Gpu, HostKind, MachineShape, Offer, OfferId
from dstack_engine.records.routes import Route
from dstack_engine.records.runs import Run, RunId, RunStatus
from dstack_engine.spec.configurations import RunConfiguration
from dstack_engine.spec.parsing import parse_configuration

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)

A100 = Gpu("A100", 80.0, "nvidia", "GPU-a", (8, 0))
T4 = Gpu("T4", 16.0, "nvidia", "GPU-t", (7, 5))
MI300X = Gpu("MI300X", 192.0, "amd")
TPU = Gpu("v3-8", 0.0, "google")


def gpus(like: Gpu, count: int) -> tuple[Gpu, ...]:
    """Return *count* GPUs like *like*, each with a UUID of its own: GPU-0, GPU-1, …"""
    return tuple(replace(like, uuid=f"GPU-{number}") for number in range(count))


def here(
    host: HostKind = HostKind.DOCKER,
    *,
    cpus: int = 2,
    memory_gb: float = 16.0,
    disk_gb: float | None = 200.0,
    gpus: tuple[Gpu, ...] = (),
) -> Offer:
    """Return an offer of this computer."""
    return Offer(
        OfferId(f"local/{host}"),
        "local",
        "local",
        str(host),
        host,
        MachineShape(cpus, memory_gb, disk_gb, gpus),
        0.0,
    )


def there(
    name: str = "g5",
    *,
    backend: str = "aws",
    region: str = "eu-west-1",
    price: float = 1.0,
    cpus: int = 8,
    memory_gb: float = 32.0,
    disk_gb: float | None = None,
    gpus: tuple[Gpu, ...] = (),
    spot: bool = False,
    availability: Availability = Availability.AVAILABLE,
) -> Offer:
    """Return an offer of a cloud."""
    return Offer(
        OfferId(f"{backend}/{region}/{name}"),
        backend,
        region,
        name,
        HostKind.DOCKER,
        MachineShape(cpus, memory_gb, disk_gb, gpus),
        price,
        spot,
        availability,
    )


def ours(
    name: str = "lab-0",
    *,
    cpus: int = 8,
    memory_gb: float = 32.0,
    disk_gb: float | None = 500.0,
    gpus: tuple[Gpu, ...] = (),
    blocks: int = 1,
    availability: Availability = Availability.IDLE,
) -> Offer:
    """Return an offer of a fleet's machine that is reached by SSH; the name tells the fleet."""
    fleet = name.rpartition("-")[0]
    return Offer(
        OfferId(f"ssh/{name}"),
        "ssh",
        fleet,
        f"{name}.example",
        HostKind.DOCKER,
        MachineShape(cpus, memory_gb, disk_gb, gpus),
        0.0,
        availability=availability,
        instance=name,
        fleet=fleet,
        blocks=blocks,
    )


def wants(
    text: str = "", *, type: str = "task", commands: str = "[python train.py]"
) -> RunConfiguration:
    """Return what the author of *text*, the rest of a configuration, asks."""
    head = f"type: {type}\ncommands: {commands}\n" if commands else f"type: {type}\n"
    configuration = parse_configuration(head + text)
    assert isinstance(configuration, RunConfiguration)
    return configuration


def a_job(run: str = "fox", *, minute: int = 0, **facts: object) -> Job:
    """Return a submitted job of *run*, submitted so many minutes past noon."""
    at = NOON + timedelta(minutes=minute)
    job = Job(
        id=JobId(f"{run}-0-0/1"),
        run_id=run,
        run_name=run,
        node=0,
        replica=0,
        attempt=1,
        status=JobStatus.SUBMITTED,
        since=at,
        submitted_at=at,
    )
    return replace(job, **facts)  # type: ignore[arg-type]


def running(
    run: str, offer: Offer, reservation: Reservation | None = None, *ports: tuple[int, int]
) -> Job:
    """Return a job that runs on *offer* with the ports (local, container)."""
    return a_job(
        run,
        status=JobStatus.RUNNING,
        offer=offer,
        reservation=reservation or Reservation(),
        routes=tuple(Route(local, container) for local, container in ports),
    )


def a_run(wanted: RunConfiguration, **facts: object) -> Run:
    """Return a submitted run of *wanted*."""
    run = Run(
        id=RunId("0123abcd"),
        name="fox",
        configuration=wanted,  # type: ignore[arg-type]
        status=RunStatus.SUBMITTED,
        since=NOON,
        submitted_at=NOON,
    )
    return replace(run, **facts)  # type: ignore[arg-type]
