"""A service as its page draws it: plain values, times in milliseconds. Called by the card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import RunStatus, RunView
from dstack_engine.records.updates import GatewayView
from dstack_jupyter.rendering.quantities import seconds_text
from dstack_jupyter.rendering.runs import place_text
from dstack_jupyter.rendering.services import (
    REPLICA_SIGNS,
    addresses_of,
    model_of,
    needs_token,
    rate_text,
    sign_of,
)
from dstack_jupyter.rendering.steps import sentence_of
from dstack_jupyter.replicas import (
    Replica,
    ReplicaWord,
    ServiceWord,
    newest_jobs,
    replicas_of,
    standing_of,
)
from dstack_jupyter.widgets.states import card_state, milliseconds

_MOODS: dict[str, str] = {
    ServiceWord.READY: "good",
    ServiceWord.STARTING: "busy",
    ServiceWord.UPDATING: "busy",
    ServiceWord.FAILING: "bad",
    ServiceWord.STOPPING: "warn",
    ServiceWord.ABORTING: "warn",
    RunStatus.FAILED: "bad",
    RunStatus.TERMINATED: "warn",
}
_REPLICA_MOODS = {
    ReplicaWord.READY: "good",
    ReplicaWord.PREPARING: "busy",
    ReplicaWord.STARTING: "busy",
    ReplicaWord.EJECTED: "bad",
    ReplicaWord.RESTING: "bad",
    ReplicaWord.DRAINING: "warn",
    ReplicaWord.STOPPING: "warn",
}


@dataclass(frozen=True)
class LogLabel:
    """One output of a service, to be chosen in the card."""

    log: str
    replica: int
    label: str
    #: It is of its replica's newest attempt.
    is_newest: bool


def service_state(
    view: RunView,
    now: datetime,
    report: ServiceReport | None,
    gateway: GatewayView,
    logs: Sequence[str],
) -> dict[str, object]:
    """Return what the card of a service shows at *now*; *logs* are the outputs that it has."""
    standing, model = standing_of(view, report), model_of(view)
    return {
        **card_state(view, now),
        "word": str(standing.word),
        "sign": sign_of(view, standing),
        "mood": _MOODS.get(standing.word, ""),
        "sentence": sentence_of(view) if view.finished else standing.sentence,
        "addresses": [
            {"label": label, "url": url, "opens": label == "address"}
            for label, url in addresses_of(view, gateway)
        ],
        "auth": needs_token(view),
        "model": None if model is None else model.name,
        "traffic": [] if report is None or view.finished else _traffic(report),
        "replicas": [_replica(row) for row in replicas_of(view, report)],
        "logs": [asdict(label) for label in labels_of(view, logs)],
    }


def labels_of(view: RunView, logs: Sequence[str]) -> list[LogLabel]:
    """Return the outputs *logs* with their labels, the newest of each replica first."""
    newest = {job.container for job in newest_jobs(view)}
    labels = []
    for job in view.jobs:
        if job.container in logs or job.container in newest:
            is_newest = job.container in newest
            label = f"replica {job.replica}"
            if not is_newest:
                label += f", attempt {job.attempt}" + (" (ended)" if job.finished else "")
            labels.append(LogLabel(job.container, job.replica, label, is_newest))
    return sorted(labels, key=lambda one: (not one.is_newest, one.replica))


def sample_of(report: ServiceReport, now: datetime) -> list[float | None]:
    """Return one point of the plots: time, requests a second, p95, in flight, held."""
    return [milliseconds(now), report.rps, report.p95, report.in_flight, report.held]


def _traffic(report: ServiceReport) -> list[dict[str, object]]:
    def time(seconds: float | None) -> str:
        return "–" if seconds is None else seconds_text(seconds)

    found = [
        ("requests/s", rate_text(report.rps), False),
        ("p50", time(report.p50), False),
        ("p95", time(report.p95), False),
        ("in flight", f"{report.in_flight:,}", False),
        ("held", f"{report.held:,}", report.held > 0),
        ("requests", f"{report.requests:,}", False),
        ("errors", f"{report.errors:,}", report.errors > 0),
    ]
    return [{"label": label, "text": text, "stands_out": out} for label, text, out in found]


def _replica(row: Replica) -> dict[str, object]:
    seen = row.report
    return {
        "number": row.number,
        "word": str(row.word),
        "sign": REPLICA_SIGNS[row.word],
        "mood": _REPLICA_MOODS.get(row.word, ""),
        "in_flight": None if seen is None else seen.in_flight,
        "requests": None if seen is None else seen.requests,
        "errors": None if seen is None else seen.errors,
        "where": place_text(row.job),
        "note": row.note,
        "until": None if row.until is None else milliseconds(row.until),
        "log": None if row.job is None else row.job.container,
    }
