"""What a run demands of an offer, each demand with the sentence that says why an offer fails it.

`placement.plan` runs the demands over whole catalogs, `capacity.place` over the few offers that a
user agreed to. Pure. On this computer only what the author wrote is demanded, and upper bounds
are limits that its hosts set on the job; the language's own defaults become remarks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from dstack_engine.decisions import gpus, quantities
from dstack_engine.decisions.scripts import PORT_VARIABLE, finds_its_port
from dstack_engine.records.offers import Availability, Gpu, HostKind, MachineShape, Offer
from dstack_engine.spec.configurations import (
    RunConfiguration,
    ServiceConfiguration,
    effective_spot_policy,
)
from dstack_engine.spec.resources import Gpu as GpuSpec
from dstack_engine.spec.resources import IntRange, MemoryRange

#: The backend that is this computer; its machine is here whether it is used or not.
LOCAL = "local"

#: dstack's older name for machines of one's own, reached by SSH.
_BACKEND_NAMES = {"remote": "ssh"}

_OURS = frozenset({Availability.IDLE, Availability.BUSY})

#: A test of a single GPU.
_Has = Callable[[Gpu], bool]

READ_SHAPE = attrgetter("shape")
READ_PRICE = attrgetter("price")

#: What is read of offers and compared by identity: hashing it would cost more than it saves.
READ_BY_IDENTITY = frozenset({READ_SHAPE})


@dataclass(frozen=True)
class Demand:
    """One thing that an offer must satisfy."""

    #: What is asked, to count by: ``asks 4 CPUs``, ``max_price is $2.00``.
    asked: str
    #: What the demand looks at, the same object for all demands that look at the same.
    read: Callable[[Offer], Any]
    #: Whether what was read satisfies the demand.
    meets: Callable[[Any], bool]
    #: The sentence for an offer that does not.
    reason: Callable[[Offer], str]


def demands_of(wanted: RunConfiguration, *, local: bool) -> tuple[Demand, ...]:
    """Return all that *wanted* demands of an offer of this computer (*local*) or elsewhere."""
    found = [*_resources(wanted, local=local), *_filters(wanted)]
    if local:
        found += _this_computer(wanted)
    return tuple(found)


def reasons_against(wanted: RunConfiguration, offer: Offer) -> tuple[str, ...]:
    """Return why *offer* does not serve *wanted*, one sentence a reason; empty when it does."""
    demands = demands_of(wanted, local=offer.backend == LOCAL)
    return tuple(d.reason(offer) for d in demands if not d.meets(d.read(offer)))


def remarks_on(wanted: RunConfiguration, offer: Offer) -> tuple[str, ...]:
    """Return what the author should know of an offer of this computer that serves *wanted*."""
    if offer.backend != LOCAL:
        return ()
    remarks = [*_unmet_defaults(wanted, offer.shape)]
    if offer.host is HostKind.PROCESS:
        remarks += _process_remarks(wanted)
    remarks += [
        f"the folder {mount.instance_path} is not mounted at {mount.path}: this version mounts none"
        for mount in wanted.volumes
        if mount.instance_path is not None and mount.optional
    ]
    return tuple(remarks)


def _is_tpu(shape: MachineShape) -> bool:
    return bool(shape.gpus) and shape.gpus[0].vendor == "google"


def _machine(offer: Offer) -> str:
    return "this computer" if offer.backend == LOCAL else "it"


def _lower(wanted: IntRange | MemoryRange, *, local: bool) -> Callable[[float], bool]:
    """Return the test of a size or number; this computer's own may be more than the most asked.

    A most of nothing is no limit that could be set, so no machine will do.
    """
    low, most = wanted.min, wanted.max
    if not local:
        return wanted.__contains__
    possible = most is None or most > 0
    return lambda value: possible and (low is None or value >= low)


def _resources(wanted: RunConfiguration, *, local: bool) -> Iterator[Demand]:
    resources = wanted.resources
    # Of a TPU machine only the TPU is compared: catalogs do not state the rest of it.
    tpu_will_do = resources.gpu is not None
    if not local or resources.wrote("cpu"):
        yield _cpu(resources.cpu, tpu_will_do=tpu_will_do, local=local)
    if not local or resources.wrote("memory"):
        yield _memory(resources.memory, tpu_will_do=tpu_will_do, local=local)
    if resources.disk is not None and (not local or resources.wrote("disk")):
        yield _disk(resources.disk.size, local=local)
    if resources.gpu is not None:
        yield from _gpus(resources.gpu, local=local)


def _cpu(wanted: IntRange, *, tpu_will_do: bool, local: bool) -> Demand:
    enough = _lower(wanted, local=local)
    asked = f"asks {quantities.cpus(wanted)}"
    return Demand(
        asked,
        READ_SHAPE,
        lambda shape: enough(shape.cpus) or (tpu_will_do and _is_tpu(shape)),
        lambda offer: f"{asked}; {_machine(offer)} has {offer.shape.cpus}",
    )


def _memory(wanted: MemoryRange, *, tpu_will_do: bool, local: bool) -> Demand:
    enough = _lower(wanted, local=local)
    asked = f"asks {quantities.sizes(wanted)} of memory"
    return Demand(
        asked,
        READ_SHAPE,
        lambda shape: enough(shape.memory_gb) or (tpu_will_do and _is_tpu(shape)),
        lambda offer: f"{asked}; {_machine(offer)} has {quantities.size(offer.shape.memory_gb)}",
    )


def _disk(wanted: MemoryRange, *, local: bool) -> Demand:
    enough = _lower(wanted, local=local)
    asked = f"asks {quantities.sizes(wanted)} of disk"
    free = " free" if local else ""
    return Demand(
        asked,
        READ_SHAPE,
        lambda shape: shape.disk_gb is None or enough(shape.disk_gb),
        lambda offer: (
            f"{asked}; {_machine(offer)} has {quantities.size(offer.shape.disk_gb or 0)}{free}"
        ),
    )


def _gpus(wanted: GpuSpec, *, local: bool) -> Iterator[Demand]:
    asked = f"asks {quantities.gpus(wanted)}"
    yield Demand(
        asked,
        READ_SHAPE,
        lambda shape: bool(shape.gpus) or _none_will_do(wanted),
        lambda offer: f"{asked}; {_why_no_gpu(offer)}",
    )
    yield from (_gpu_aspect(*aspect) for aspect in _gpu_aspects(wanted))
    yield Demand(
        asked,
        READ_SHAPE,
        lambda shape: _refused_already(shape, wanted) or _enough_gpus(shape, wanted, local=local),
        lambda offer: f"{asked}; {_machine(offer)} has {_listed(offer.shape.gpus, _full_name)}",
    )


def _why_no_gpu(offer: Offer) -> str:
    # This computer's offers come with remarks where its GPUs could not be offered.
    if offer.backend == LOCAL and offer.remarks:
        return ", ".join(offer.remarks)
    return f"{_machine(offer)} has no GPU"


def _gpu_aspect(asked: str, has: _Has, shown: Callable[[Gpu], str]) -> Demand:
    return Demand(
        asked,
        READ_SHAPE,
        lambda shape: not shape.gpus or _is_tpu(shape) or _any(shape.gpus, has),
        lambda offer: f"{asked}; {_machine(offer)} has {_listed(offer.shape.gpus, shown)}",
    )


def _none_will_do(wanted: GpuSpec) -> bool:
    asks_more = (wanted.name, wanted.vendor, wanted.memory, wanted.total_memory)
    return (
        0 in wanted.count
        and wanted.compute_capability is None
        and all(value is None for value in asks_more)
    )


def _gpu_aspects(wanted: GpuSpec) -> Iterator[tuple[str, _Has, Callable[[Gpu], str]]]:
    """Yield each thing asked of a single GPU: its words, its test, and what to show of a GPU."""
    vendor = gpus.vendor_of(wanted)
    if vendor is not None:
        yield f"asks a GPU of {vendor}", lambda gpu: gpus.has_vendor(gpu, wanted), _name
    if wanted.name is not None:
        names = quantities.one_of(wanted.name)
        yield f"asks GPU {names}", lambda gpu: gpus.has_name(gpu, wanted), _name
    if wanted.memory is not None:
        asked = f"asks {quantities.sizes(wanted.memory)} of GPU memory"
        yield asked, lambda gpu: gpus.has_memory(gpu, wanted), _full_name
    if wanted.compute_capability is not None:
        asked = f"asks compute capability {quantities.capability(wanted.compute_capability)}"
        yield asked, lambda gpu: gpus.has_capability(gpu, wanted), _name_and_capability


def _refused_already(shape: MachineShape, wanted: GpuSpec) -> bool:
    """Tell whether another demand has refused already, so that the number need not be told, too."""
    if not shape.gpus:
        return True
    tests = [has for _, has, _ in _gpu_aspects(wanted)]
    return not _is_tpu(shape) and not all(_any(shape.gpus, has) for has in tests)


def _enough_gpus(shape: MachineShape, wanted: GpuSpec, *, local: bool) -> bool:
    if _is_tpu(shape):
        return gpus.fits(shape.gpus[0], wanted)
    if local:
        return gpus.choose_gpus(shape.gpus, wanted) is not None
    if len(shape.gpus) not in wanted.count or not gpus.fits(shape.gpus[0], wanted):
        return False
    total = wanted.total_memory
    return total is None or gpus.total_memory(shape.gpus) in total


def _any(given: Sequence[Gpu], has: _Has) -> bool:
    # A machine's GPUs are nearly always alike, so the first one mostly answers for all.
    return has(given[0]) or any(has(gpu) for gpu in given)


def _name(gpu: Gpu) -> str:
    return gpu.name


def _full_name(gpu: Gpu) -> str:
    return f"{gpu.name} of {quantities.size(gpu.memory_gb)}"


def _name_and_capability(gpu: Gpu) -> str:
    known = gpu.compute_capability
    return f"{gpu.name} ({quantities.capability(known) if known else 'not known'})"


def _listed(given: Sequence[Gpu], shown: Callable[[Gpu], str]) -> str:
    names = [shown(gpu) for gpu in given]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


_READ_BACKEND = attrgetter("backend")
_READ_REGION = attrgetter("region")
_READ_ZONE = attrgetter("zone")
_READ_TYPE = attrgetter("instance_type")
_READ_SPOT = attrgetter("spot")
_READ_ID = attrgetter("id")
_READ_HOST = attrgetter("host")


def _filters(wanted: RunConfiguration) -> Iterator[Demand]:
    if wanted.backends is not None:
        names = [_BACKEND_NAMES.get(name, name) for name in wanted.backends]
        yield _among("backends", names, _READ_BACKEND, "its backend is")
    if wanted.regions is not None:
        yield _among("regions", wanted.regions, _READ_REGION, "its region is")
    if wanted.availability_zones is not None:
        yield _among("availability_zones", wanted.availability_zones, _READ_ZONE, "its zone is")
    if wanted.instance_types is not None:
        yield _among("instance_types", wanted.instance_types, _READ_TYPE, "its type is")
    if wanted.max_price is not None:
        yield _price(wanted.max_price)
    yield from _spot(wanted)
    yield from _ownership(wanted)


def _among(
    key: str, names: Sequence[str], read: Callable[[Offer], str | None], is_words: str
) -> Demand:
    allowed = {name.lower() for name in names}
    listed = ", ".join(names) or "empty"
    return Demand(
        f"{key}: {listed}",
        read,
        lambda value: value is not None and value.lower() in allowed,
        lambda offer: f"{key}: {listed}; {is_words} {read(offer) or 'not known'}",
    )


def _price(most: float) -> Demand:
    asked = f"max_price is {quantities.price(most)}"
    return Demand(
        asked,
        READ_PRICE,
        most.__ge__,
        lambda offer: f"costs {quantities.price(offer.price)}/h; {asked}",
    )


def _spot(wanted: RunConfiguration) -> Iterator[Demand]:
    policy = effective_spot_policy(wanted)
    if policy == "auto":
        return
    yield Demand(
        f"spot_policy is {policy}",
        _READ_SPOT,
        lambda spot: spot == (policy == "spot"),
        lambda offer: (
            f"spot_policy is {policy}; {_machine(offer)} is a spot machine"
            if offer.spot
            else f"spot_policy is {policy}; {_machine(offer)} is not a spot machine"
        ),
    )


def _ownership(wanted: RunConfiguration) -> Iterator[Demand]:
    if wanted.creation_policy == "reuse":
        # This computer is there already, and so are our own instances.
        yield Demand(
            "creation_policy is reuse",
            _read_ownership,
            bool,
            lambda _: "creation_policy is reuse; it would have to be rented",
        )
    if wanted.instance_name is not None:
        name = wanted.instance_name
        yield Demand(
            f"instance_name is {name}",
            _READ_ID,
            lambda offer_id: offer_id.rpartition("/")[2] == name,
            lambda offer: f"instance_name is {name}; this is {offer.id}",
        )
    if wanted.fleets is not None:
        names = ", ".join(wanted.fleets)
        yield Demand(
            f"fleets: {names}",
            _READ_BACKEND,
            lambda _: False,
            lambda offer: f"fleets: {names}; {_machine(offer)} is in no fleet",
        )


def _read_ownership(offer: Offer) -> bool:
    return offer.backend == LOCAL or offer.availability in _OURS


def _this_computer(wanted: RunConfiguration) -> Iterator[Demand]:
    nodes = getattr(wanted, "nodes", 1)
    if nodes > 1:
        yield _never(f"asks {nodes} nodes", "this computer is one")
    for mount in wanted.volumes:
        if mount.name is not None:
            yield _never(f"asks the volume {mount.name}", "this computer has no volumes")
        elif not mount.optional:
            asked = f"asks the folder {mount.instance_path} of the machine"
            yield _never(asked, "this version mounts no folders of this computer")
    if wanted.type == "dev-environment":
        words = "plain processes run tasks and services only"
        yield _docker_only(f"is a {wanted.type}", words)
    if wanted.image is not None:
        yield _docker_only(f"asks the image {wanted.image}", "a plain process has no image")
    if wanted.entrypoint is not None:
        yield _docker_only("asks an entrypoint", "a plain process has none")
    if wanted.registry_auth is not None:
        yield _docker_only("gives registry_auth", "a plain process has no image to pull")
    if wanted.privileged:
        yield _docker_only("asks to be privileged", "a plain process has the rights that you have")
    if wanted.user is not None:
        yield _docker_only(f"asks the user {wanted.user}", "a plain process runs as you")


def _never(asked: str, why: str) -> Demand:
    return Demand(asked, _READ_BACKEND, lambda _: False, lambda _: f"{asked}; {why}")


def _docker_only(asked: str, why: str) -> Demand:
    return Demand(
        asked, _READ_HOST, lambda host: host is HostKind.DOCKER, lambda _: f"{asked}; {why}"
    )


def _unmet_defaults(wanted: RunConfiguration, shape: MachineShape) -> Iterator[str]:
    resources = wanted.resources
    if not resources.wrote("cpu") and shape.cpus < (resources.cpu.min or 0):
        yield f"has {quantities.count_of(shape.cpus, 'CPU')}; the default is {resources.cpu.min}"
    least = resources.memory.min or 0
    if not resources.wrote("memory") and shape.memory_gb < least:
        has = quantities.size(shape.memory_gb)
        yield f"has {has} of memory; the default is {quantities.size(least)}"
    least = resources.disk.size.min or 0 if resources.disk else 0
    if not resources.wrote("disk") and shape.disk_gb is not None and shape.disk_gb < least:
        has = quantities.size(shape.disk_gb)
        yield f"has {has} of disk free; the default is {quantities.size(least)}"


def _process_remarks(wanted: RunConfiguration) -> Iterator[str]:
    if wanted.resources.shm_size is not None:
        yield "shm_size is not set: plain processes share this computer's /dev/shm"
    if wanted.wrote("home_dir"):
        yield "home_dir is not used: plain processes keep your own home folder"
    if wanted.nvcc:
        yield "nvcc is the one of this computer, if it has one"
    if isinstance(wanted, ServiceConfiguration) and _shares_a_port(wanted):
        port = wanted.port.container_port
        yield (
            f"only one replica at a time can listen on port {port}: have the program listen on "
            f"${PORT_VARIABLE}, which is another one for each"
        )


def _shares_a_port(wanted: ServiceConfiguration) -> bool:
    return wanted.replicas.max > 1 and not finds_its_port(wanted)
