"""What the page is told of runs, services, models and machines: plain rows, no secrets in them.

Pure. `state` and `changes` make them; `labextension/src/records.ts` says the same in TypeScript.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from dstack_engine.records.findings import Finding
from dstack_engine.records.instances import Instance, InstanceStatus
from dstack_engine.records.jobs import Job
from dstack_engine.records.offers import Offer, Plan
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import RunView
from dstack_engine.records.updates import GatewayView, ModelView
from dstack_jupyter.machines import findings_of, host_text, machine_standing, runs_on
from dstack_jupyter.rendering.fleets import mark_of
from dstack_jupyter.rendering.offers import count_text, offer_notes
from dstack_jupyter.rendering.quantities import resources_text
from dstack_jupyter.replicas import Replica, ReplicaWord, is_service, replicas_of, standing_of

#: One thing as the page reads it, ready to be written as JSON.
Row = dict[str, Any]

#: The extension's place below Jupyter's base URL.
NAMESPACE = "dstack-jupyter"


def run_row(view: RunView, now: datetime) -> Row:
    """Return a run's row; nothing of its environment."""
    run, job = view.run, view.job
    offer = job.offer if job else None
    return {
        "name": view.name,
        "type": run.configuration.type,
        "status": view.status.value,
        "finished": view.finished,
        "reason": job.reason.sentence if job and job.reason else None,
        "detail": job.detail if job else None,
        "waiting": job.waiting if job and not view.finished else None,
        "submitted_at": run.submitted_at.isoformat(),
        "started_at": _time(run.started_at),
        "finished_at": _time(run.finished_at),
        "price": view.price,
        "cost": view.cost(now),
        "as_of": now.isoformat(),
        "exit_code": job.exit_code if job else None,
        "backend": offer.backend if offer else None,
        "resources": resources_text(offer.shape) if offer else None,
        "project": run.project,
        "ports": _ports(view, job),
    }


def _ports(view: RunView, job: Job | None) -> list[Row]:
    if job is None or job.finished or is_service(view):
        return []
    return [
        {
            "port": route.container_port,
            "local_port": route.local_port,
            "url": route.url,
            "proxy": f"{NAMESPACE}/ports/{view.name}/{route.container_port}/",
        }
        for route in job.routes
    ]


def service_row(view: RunView, report: ServiceReport | None, gateway: GatewayView) -> Row:
    """Return a service's row; *report* is its traffic as the gateway saw it last."""
    if report is not None and report.run_id != view.run.id:
        report = None  # of an earlier run of this name
    seen = report or ServiceReport(view.name, view.run.id)
    standing = standing_of(view, report)
    model = getattr(view.run.configuration, "model", None)
    return {
        "name": view.name,
        "status": view.status.value,
        "url": gateway.url_of(view.name) if gateway.port is not None else None,
        "proxy": f"{NAMESPACE}/services/{view.name}/",
        "model": model.name if model is not None else None,
        "desired": standing.desired,
        "ready": standing.ready,
        "replicas": [_replica(view, replica) for replica in replicas_of(view, report)],
        "rps": seen.rps,
        "in_flight": seen.in_flight,
        "held": seen.held,
        "p50": seen.p50,
        "p95": seen.p95,
    }


def _replica(view: RunView, replica: Replica) -> Row:
    report = replica.report
    return {
        "job": replica.job.id if replica.job else f"{view.name}-0-{replica.number}",
        "state": replica.word.value,
        "in_flight": report.in_flight if report is not None else 0,
        "trouble": replica.note if replica.note and replica.word is not ReplicaWord.READY else None,
    }


def model_row(model: ModelView) -> Row:
    """Return a model's row."""
    return {"name": model.name, "runs": [*model.runs], "ready_replicas": model.ready_replicas}


def machine_rows(instances: Sequence[Instance], views: Iterable[RunView]) -> list[Row]:
    """Return the machines' rows, each with the runs of *views* that hold some of it."""
    there = list(views)
    runs, used = runs_on(there), _blocks_used(there)
    return [_machine(one, runs.get(one.name, []), used[one.name]) for one in instances]


def _blocks_used(views: Sequence[RunView]) -> Counter[str]:
    """Return how many blocks of each machine are held."""
    used: Counter[str] = Counter()
    for view in views:
        for job in view.jobs:
            if job.instance and job.reservation and not job.finished:
                used[job.instance] += job.reservation.blocks
    return used


def _machine(instance: Instance, runs: list[str], blocks_used: int) -> Row:
    offer, standing = instance.offer, machine_standing(instance)
    return {
        "name": instance.name,
        "fleet": instance.fleet,
        "number": instance.number,
        "host": host_text(instance) if instance.ssh is not None else None,
        "word": str(standing.word),
        "sign": standing.sign,
        "note": standing.sentence or None,
        "blocks": offer.blocks,
        "blocks_used": min(blocks_used, offer.blocks),
        "checks": [_check(finding) for finding in findings_of(instance)],
        "backend": instance.backend,
        "region": offer.region,
        "instance_type": offer.instance_type,
        "status": instance.status.value,
        "cpus": offer.shape.cpus,
        "memory_gb": offer.shape.memory_gb,
        "disk_gb": offer.shape.disk_gb,
        "gpus": [gpu.name for gpu in offer.shape.gpus],
        "price": offer.price,
        "idle_until": None,  # this computer is never given back
        "runs": runs,
    }


def _check(finding: Finding) -> Row:
    return {
        "mark": mark_of(finding),
        "text": f"{finding.subject}: {finding.text}",
        "fix": None if finding.ok else finding.fix,
    }


def gone_model(name: str) -> Row:
    """Return the last row of a model that nothing serves any more."""
    return {"name": name, "runs": [], "ready_replicas": 0}


def gone_machine(row: Row) -> Row:
    """Return the last row of a machine that was given back."""
    return {**row, "status": InstanceStatus.TERMINATED.value, "runs": []}


def offers_answer(plan: Plan) -> Row:
    """Return a plan: what fits, and what does not with the reasons."""
    refused = max(plan.total_refused, len(plan.refusals))
    counts = plan.refused_by if refused > len(plan.refusals) else ()
    return {
        "offers": [_offer(offer, ()) for offer in plan.offers],
        "refused": [_offer(refusal.offer, refusal.reasons) for refusal in plan.refusals],
        "total_offers": max(plan.total_offers, len(plan.offers)),
        "total_refused": refused,
        "remarks": [*plan.remarks, *(count_text(count) for count in counts)],
    }


def _offer(offer: Offer, reasons: Sequence[str]) -> Row:
    return {
        "id": offer.id,
        "backend": offer.backend,
        "region": offer.region,
        "instance_type": offer.instance_type,
        "resources": resources_text(offer.shape),
        "price": offer.price,
        "spot": offer.spot,
        "availability": offer.availability.value,
        "reasons": [*reasons],
        "notes": offer_notes(offer),
    }


def _time(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None
