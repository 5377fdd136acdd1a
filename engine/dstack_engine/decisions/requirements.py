"""What a run demands of an offer, each demand with the sentence that says why an offer fails it.

`placement.plan` runs the demands over whole catalogs, `capacity.place` over the few offers that a
user agreed to. Pure. Of this computer and of machines of one's own only what the author wrote is
demanded, and upper bounds are limits that their hosts set on the job; the language's own defaults
become remarks. Demands that say whose machine it may be are in `ownership`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from dstack_engine.decisions import gpus, quantities
from dstack_engine.decisions.demands import READ_SHAPE, Demand
from dstack_engine.decisions.ownership import (
    Site,
    abilities,
    filters,
    machine_words,
    process_remarks,
    site_of,
    volume_remarks,
)
from dstack_engine.records.offers import Gpu, HostKind, MachineShape, Offer
from dstack_engine.spec.configurations import RunConfiguration
from dstack_engine.spec.resources import Gpu as GpuSpec
from dstack_engine.spec.resources import IntRange, MemoryRange

#: A test of a single GPU.
_Has = Callable[[Gpu], bool]


def demands_of(wanted: RunConfiguration, site: Site) -> tuple[Demand, ...]:
    """Return all that *wanted* demands of an offer of that *site*."""
    resources = _resources(wanted, owned=site.owned)
    return (*resources, *filters(wanted), *abilities(wanted, site))


def reasons_against(wanted: RunConfiguration, offer: Offer) -> tuple[str, ...]:
    """Return why *offer* does not serve *wanted*, one sentence a reason; empty when it does."""
    demands = demands_of(wanted, site_of(offer))
    return tuple(d.reason(offer) for d in demands if not d.meets(d.read(offer)))


def serving(wanted: RunConfiguration, offers: Iterable[Offer]) -> list[Offer]:
    """Return those of *offers* that serve *wanted*, in their order."""
    demands: dict[Site, tuple[Demand, ...]] = {}
    found = []
    for offer in offers:
        site = site_of(offer)
        if site not in demands:
            demands[site] = demands_of(wanted, site)
        if all(demand.meets(demand.read(offer)) for demand in demands[site]):
            found.append(offer)
    return found


def remarks_on(wanted: RunConfiguration, offer: Offer) -> tuple[str, ...]:
    """Return what the author should know of an offer of ours that serves *wanted*."""
    if not site_of(offer).owned:
        return ()
    remarks = [*_unmet_defaults(wanted, offer.shape)]
    if offer.host is HostKind.PROCESS:
        remarks += process_remarks(wanted)
    return (*remarks, *volume_remarks(wanted))


def _is_tpu(shape: MachineShape) -> bool:
    return bool(shape.gpus) and shape.gpus[0].vendor == "google"


def _lower(wanted: IntRange | MemoryRange, *, owned: bool) -> Callable[[float], bool]:
    """Return the test of a size or number; a machine of our own may have more than the most asked.

    A most of nothing is no limit that could be set, so no machine will do.
    """
    low, most = wanted.min, wanted.max
    if not owned:
        return wanted.__contains__
    possible = most is None or most > 0
    return lambda value: possible and (low is None or value >= low)


def _resources(wanted: RunConfiguration, *, owned: bool) -> Iterator[Demand]:
    resources = wanted.resources
    # Of a TPU machine only the TPU is compared: catalogs do not state the rest of it.
    tpu_will_do = resources.gpu is not None
    if not owned or resources.wrote("cpu"):
        yield _cpu(resources.cpu, tpu_will_do=tpu_will_do, owned=owned)
    if not owned or resources.wrote("memory"):
        yield _memory(resources.memory, tpu_will_do=tpu_will_do, owned=owned)
    if resources.disk is not None and (not owned or resources.wrote("disk")):
        yield _disk(resources.disk.size, owned=owned)
    if resources.gpu is not None:
        yield from _gpus(resources.gpu, owned=owned)


def _cpu(wanted: IntRange, *, tpu_will_do: bool, owned: bool) -> Demand:
    enough = _lower(wanted, owned=owned)
    asked = f"asks {quantities.cpus(wanted)}"
    return Demand(
        asked,
        READ_SHAPE,
        lambda shape: enough(shape.cpus) or (tpu_will_do and _is_tpu(shape)),
        lambda offer: f"{asked}; {machine_words(offer)} has {offer.shape.cpus}",
    )


def _memory(wanted: MemoryRange, *, tpu_will_do: bool, owned: bool) -> Demand:
    enough = _lower(wanted, owned=owned)
    asked = f"asks {quantities.sizes(wanted)} of memory"
    return Demand(
        asked,
        READ_SHAPE,
        lambda shape: enough(shape.memory_gb) or (tpu_will_do and _is_tpu(shape)),
        lambda offer: (
            f"{asked}; {machine_words(offer)} has {quantities.size(offer.shape.memory_gb)}"
        ),
    )


def _disk(wanted: MemoryRange, *, owned: bool) -> Demand:
    enough = _lower(wanted, owned=owned)
    asked = f"asks {quantities.sizes(wanted)} of disk"
    free = " free" if owned else ""
    return Demand(
        asked,
        READ_SHAPE,
        lambda shape: shape.disk_gb is None or enough(shape.disk_gb),
        lambda offer: (
            f"{asked}; {machine_words(offer)} has {quantities.size(offer.shape.disk_gb or 0)}{free}"
        ),
    )


def _gpus(wanted: GpuSpec, *, owned: bool) -> Iterator[Demand]:
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
        lambda shape: _refused_already(shape, wanted) or _enough_gpus(shape, wanted, owned=owned),
        lambda offer: (
            f"{asked}; {machine_words(offer)} has {_listed(offer.shape.gpus, _full_name)}"
        ),
    )


def _why_no_gpu(offer: Offer) -> str:
    # Our own machines' offers come with remarks where their GPUs could not be offered.
    if site_of(offer).owned and offer.remarks:
        return ", ".join(offer.remarks)
    return f"{machine_words(offer)} has no GPU"


def _gpu_aspect(asked: str, has: _Has, shown: Callable[[Gpu], str]) -> Demand:
    return Demand(
        asked,
        READ_SHAPE,
        lambda shape: not shape.gpus or _is_tpu(shape) or _any(shape.gpus, has),
        lambda offer: f"{asked}; {machine_words(offer)} has {_listed(offer.shape.gpus, shown)}",
    )


def _none_will_do(wanted: GpuSpec) -> bool:
    asks_more = (wanted.name, wanted.vendor, wanted.memory, wanted.total_memory)
    return (
        gpus.choose_gpus((), wanted) is not None
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


def _enough_gpus(shape: MachineShape, wanted: GpuSpec, *, owned: bool) -> bool:
    if _is_tpu(shape):
        return gpus.fits(shape.gpus[0], wanted)
    if owned:
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
