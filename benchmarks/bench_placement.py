"""Offers planned over a synthetic catalog of 50,000: ours, a plain loop, the ratio.

The peer is the way gpuhunt's catalog is searched: every row compared with every requirement in a
Python loop, what fits sorted by price. It gives no reasons; ours counts them all. Run by
`make bench`, or `python -m benchmarks placement`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import process_time

from benchmarks.table import Line, medians, print_table
from dstack_engine.decisions.placement import plan
from dstack_engine.records.offers import Gpu, HostKind, MachineShape, Offer, OfferId
from dstack_engine.spec.configurations import RunConfiguration, TaskConfiguration

ROWS = 50_000
BAR_MS = 50.0

#: Name, memory in GB and compute capability; as catalogs name them.
GPUS = [
    ("T4", 16.0, (7, 5)),
    ("A10G", 24.0, (8, 6)),
    ("L4", 24.0, (8, 9)),
    ("RTX4090", 24.0, (8, 9)),
    ("L40S", 48.0, (8, 9)),
    ("A100", 40.0, (8, 0)),
    ("A100", 80.0, (8, 0)),
    ("H100", 80.0, (9, 0)),
    ("H200", 141.0, (9, 0)),
]


def shapes() -> Iterator[MachineShape]:
    """Yield the machine types: without GPU, and with 1 to 8 of each."""
    for cpus in (2, 4, 8, 16, 32, 64, 96):
        for per_cpu in (2, 4, 8):
            yield MachineShape(cpus, float(cpus * per_cpu), None)
    for name, memory, capability in GPUS:
        for count in (1, 2, 4, 8):
            for cpus in (4, 8, 12):
                gpu = Gpu(name, memory, compute_capability=capability)
                yield MachineShape(cpus * count, cpus * count * 8.0, 200.0, (gpu,) * count)


def catalog(rows: int, *, shared: bool) -> list[Offer]:
    """Return *rows* offers over backends, regions and types, spot and not."""
    types = list(shapes())
    offers: list[Offer] = []
    regions = [
        (backend, f"{backend}-{n}") for n in range(40) for backend in ("aws", "gcp", "azure")
    ]
    while len(offers) < rows:
        round_number = len(offers)
        for backend, region in regions:
            for number, shape in enumerate(types):
                spot = number % 2 == 0
                price = round(shape.cpus * 0.04 + len(shape.gpus) * (1 + number / 50), 4)
                price = round(price * (0.4 if spot else 1.0) * (1 + len(region) / 100), 4)
                offers.append(
                    Offer(
                        id=OfferId(f"{backend}/{region}/type-{number}/{round_number}/{spot}"),
                        backend=backend,
                        region=region,
                        instance_type=f"type-{number}",
                        host=HostKind.DOCKER,
                        shape=shape if shared else replace(shape),
                        price=price + (len(offers) % 97) / 1000,
                        spot=spot,
                    )
                )
    return offers[:rows]


def plain_loop(wanted: RunConfiguration, offers: list[Offer]) -> list[Offer]:
    """Compare every row with every requirement, one after the other; sort what fits by price."""
    return sorted((o for o in offers if matches(wanted, o)), key=lambda offer: offer.price)


def matches(wanted: RunConfiguration, offer: Offer) -> bool:
    """Tell whether one row of the catalog has what is asked."""
    resources, shape = wanted.resources, offer.shape
    if wanted.max_price is not None and offer.price > wanted.max_price:
        return False
    if wanted.regions is not None and offer.region not in wanted.regions:
        return False
    if wanted.spot_policy not in (None, "auto") and offer.spot != (wanted.spot_policy == "spot"):
        return False
    if shape.cpus not in resources.cpu or shape.memory_gb not in resources.memory:
        return False
    if resources.disk and shape.disk_gb is not None and shape.disk_gb not in resources.disk.size:
        return False
    gpu = resources.gpu
    if gpu is None:
        return True
    if len(shape.gpus) not in gpu.count or not shape.gpus:
        return False
    first = shape.gpus[0]
    if gpu.vendor is not None and first.vendor != gpu.vendor:
        return False
    if gpu.name and first.name.lower() not in {name.lower() for name in gpu.name}:
        return False
    if gpu.compute_capability and (first.compute_capability or (0, 0)) < gpu.compute_capability:
        return False
    if gpu.memory is not None and first.memory_gb not in gpu.memory:
        return False
    total = gpu.total_memory
    return total is None or sum(g.memory_gb for g in shape.gpus) in total


QUESTIONS: dict[str, dict[str, object]] = {
    "nothing asked": {},
    "gpu: 24GB": {"resources": {"gpu": "24GB"}},
    "gpu, price, region, spot": {
        "resources": {"gpu": "A100,H100:40GB..:1..8", "cpu": "8..", "memory": "64GB.."},
        "max_price": 12,
        "regions": ["aws-1", "gcp-2", "azure-3"],
        "spot_policy": "spot",
    },
    "nothing fits": {"resources": {"gpu": "B200:16"}},
}


def measure() -> Iterator[Line]:
    """Yield the lines of the table."""
    offers = catalog(ROWS, shared=True)
    for question, asked in QUESTIONS.items():
        yield _compare(question, asked, offers)
    # Backends are to share one shape among the offers of one machine type; this is what it is for.
    unshared = catalog(ROWS, shared=False)
    line = _compare("gpu: 24GB, no shape shared", QUESTIONS["gpu: 24GB"], unshared)
    yield replace(line, bar="", kept=None)


def _compare(question: str, asked: dict[str, object], offers: list[Offer]) -> Line:
    """Return one line: both ways find the same, in so many milliseconds."""
    task = {"type": "task", "commands": ["true"], **asked}
    wanted = TaskConfiguration.model_validate(task)
    assert plan(wanted, offers).total_offers == len(plain_loop(wanted, offers))
    ours, peer = medians(
        lambda: _seconds(lambda: plan(wanted, offers)),
        lambda: _seconds(lambda: plain_loop(wanted, offers)),
    )
    return Line(
        f"plan over {ROWS:,} offers, {question}",
        ours * 1000,
        "ms",
        bar=f"≤ {BAR_MS:g} ms",
        kept=ours * 1000 <= BAR_MS,
        peer=peer * 1000,
        peer_name="a plain loop",
    )


def _seconds(work: Callable[[], object]) -> float:
    """Return the processor time of *work*: on a busy computer, what it takes on a quiet one."""
    gc.collect()
    begun = process_time()
    work()
    return process_time() - begun


def main() -> None:
    """Print this benchmark's lines."""
    print_table(measure())


if __name__ == "__main__":
    main()
