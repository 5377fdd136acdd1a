"""What the engine and the gateway say to each other, as bytes; and several reports as one.

`control` speaks it on the gateway's side, `link` on the engine's, `state` on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import TypeVar

from pydantic import TypeAdapter

from dstack_engine.records.publication import (
    GatewayReport,
    Load,
    ModelUsage,
    Publication,
    ReplicaReport,
    ReplicaState,
    ServiceReport,
)

_PUBLICATION: TypeAdapter[Publication] = TypeAdapter(Publication)
_REPORT: TypeAdapter[GatewayReport] = TypeAdapter(GatewayReport)

#: A publication is no longer than this, in bytes.
LONGEST_PUBLICATION = 16 << 20

#: How a replica counts that workers see differently: one that any of them can use is of use.
_BEST_FIRST = (
    ReplicaState.DRAINING,
    ReplicaState.READY,
    ReplicaState.EJECTED,
    ReplicaState.PROBING,
)

_T = TypeVar("_T", ModelUsage, Load)


def encode_publication(publication: Publication) -> bytes:
    """Return the publication as JSON."""
    return _PUBLICATION.dump_json(publication)


def decode_publication(body: bytes) -> Publication:
    """Read it back; raise `ValueError` for anything else."""
    return _PUBLICATION.validate_json(body)


def encode_report(report: GatewayReport) -> bytes:
    """Return the report as one line of JSON, without its end."""
    return _REPORT.dump_json(report)


def decode_report(line: bytes) -> GatewayReport:
    """Read it back; raise `ValueError` for anything else."""
    return _REPORT.validate_json(line)


def merge(reports: Sequence[GatewayReport]) -> GatewayReport:
    """Return one report of all workers' (at least one): what they counted is added up.

    The version is the oldest that is still served. Percentiles are means weighted by each worker's
    rate, which is near the truth since connections are dealt to workers by chance.
    """
    if len(reports) == 1:
        return reports[0]
    by_run: dict[str, list[ServiceReport]] = {}
    by_model: dict[tuple[str, str], list[ModelUsage]] = {}
    for report in reports:
        for service in report.services:
            by_run.setdefault(service.run_id, []).append(service)
        for usage in report.models:
            by_model.setdefault((usage.model, usage.token), []).append(usage)
    return replace(
        reports[0],
        version=min(report.version for report in reports),
        services=tuple(_merge_services(each) for each in by_run.values()),
        models=tuple(_add(each, but=("model", "token")) for each in by_model.values()),
    )


def _merge_services(parts: Sequence[ServiceReport]) -> ServiceReport:
    if len(parts) == 1:
        return parts[0]
    replicas: dict[str, list[ReplicaReport]] = {}
    loads: dict[int, list[Load]] = {}
    for part in parts:
        for replica in part.replicas:
            replicas.setdefault(replica.job, []).append(replica)
        for load in part.loads:
            loads.setdefault(load.window, []).append(load)
    return replace(
        parts[0],
        replicas=tuple(_merge_replicas(each) for each in replicas.values()),
        in_flight=sum(part.in_flight for part in parts),
        held=sum(part.held for part in parts),
        loads=tuple(_add(each, but=("window",)) for each in loads.values()),
        rps=sum(part.rps for part in parts),
        p50=_mean((part.p50, part.rps) for part in parts),
        p95=_mean((part.p95, part.rps) for part in parts),
        requests=sum(part.requests for part in parts),
        errors=sum(part.errors for part in parts),
    )


def _merge_replicas(parts: Sequence[ReplicaReport]) -> ReplicaReport:
    best = min(parts, key=lambda part: _BEST_FIRST.index(part.state))
    return replace(
        best,
        in_flight=sum(part.in_flight for part in parts),
        requests=sum(part.requests for part in parts),
        errors=sum(part.errors for part in parts),
    )


def _add(parts: Sequence[_T], *, but: Sequence[str]) -> _T:
    """Add up all fields but those named."""
    names = [field.name for field in fields(parts[0]) if field.name not in but]
    return replace(parts[0], **{name: sum(getattr(part, name) for part in parts) for name in names})


def _mean(pairs: Iterable[tuple[float | None, float]]) -> float | None:
    known = [(value, weight + 1e-9) for value, weight in pairs if value is not None]
    weights = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / weights if known else None
