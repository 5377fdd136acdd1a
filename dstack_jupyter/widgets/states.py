"""Records as what a page draws: plain values, times in milliseconds. Called by the widgets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from dstack_engine.records.events import Progress
from dstack_engine.records.findings import Finding
from dstack_engine.records.fleets import FleetView
from dstack_engine.records.instances import Instance
from dstack_engine.records.jobs import Job
from dstack_engine.records.offers import Offer, Plan
from dstack_engine.records.runs import RunStatus, RunView
from dstack_engine.records.sightings import Usage
from dstack_jupyter.machines import (
    MachineWord,
    findings_of,
    fleet_sentence,
    host_text,
    machine_standing,
)
from dstack_jupyter.rendering.fleets import Runs, machine_facts, mark_of
from dstack_jupyter.rendering.offers import backend_text, offer_notes
from dstack_jupyter.rendering.quantities import hourly_text, resources_text, size_text
from dstack_jupyter.rendering.runs import facts_of
from dstack_jupyter.rendering.steps import SIGNS, Step, sentence_of, status_word, steps_of


def milliseconds(at: datetime) -> float:
    """Return a time as JavaScript counts it."""
    return at.timestamp() * 1000


def card_state(view: RunView, now: datetime) -> dict[str, object]:
    """Return what every card shows of its run at *now*."""
    run = view.run
    ended_at = (run.finished_at or run.since) if view.finished else None
    return {
        "id": run.id,
        "name": view.name,
        "status": str(view.status),
        "final": view.finished,
        "stopping": view.status is RunStatus.TERMINATING or run.stop_requested_at is not None,
        "aborting": run.abort,
        "now": milliseconds(now),
        "submitted_at": milliseconds(run.submitted_at),
        "ended_at": None if ended_at is None else milliseconds(ended_at),
        "price": view.price,
        "cost": view.cost(now),
    }


def run_state(
    view: RunView, now: datetime, progress: Progress | None = None, usage: Usage | None = None
) -> dict[str, object]:
    """Return what the card of a task shows at *now*."""
    return {
        **card_state(view, now),
        "word": status_word(view),
        "sign": SIGNS[view.status],
        "sentence": sentence_of(view),
        "steps": [_step(step) for step in steps_of(view, progress)],
        "facts": facts_of(view, ports=False),
        "ports": _ports(view.job),
        "usage": [] if usage is None or view.finished else usage_meters(usage, view.job),
    }


def usage_meters(usage: Usage, job: Job | None) -> list[dict[str, object]]:
    """Return what a job uses, each with its part of what it may use where that is known."""
    held = job.reservation if job else None
    cpus = held.cpu_limit if held else None
    memory = held.memory_limit_gb if held else None
    meters = [
        _meter("CPU", f"{usage.cpus:.1f}" + (f" of {cpus:g}" if cpus else ""), usage.cpus, cpus),
        _meter(
            "memory",
            size_text(usage.memory_gb) + (f" of {size_text(memory)}" if memory else ""),
            usage.memory_gb,
            memory,
        ),
    ]
    for number, gpu in enumerate(usage.gpus):
        text = f"{gpu.utilization * 100:.0f} % · {size_text(gpu.memory_gb)}"
        meters.append(_meter(f"GPU {number}", text, gpu.utilization, 1.0))
    return meters


def offer_states(plan: Plan) -> list[dict[str, object]]:
    """Return the rows of the offers table."""
    return [_offer(number, offer) for number, offer in enumerate(plan.offers, start=1)]


def _offer(number: int, offer: Offer) -> dict[str, object]:
    gpus: Sequence[float] = [gpu.memory_gb for gpu in offer.shape.gpus]
    return {
        "id": offer.id,
        "number": number,
        "backend": backend_text(offer),
        "region": offer.region,
        "instance": offer.instance_type,
        "resources": resources_text(offer.shape),
        "power": [sum(gpus), offer.shape.cpus, offer.shape.memory_gb],
        "spot": offer.spot,
        "price": offer.price,
        "price_text": hourly_text(offer.price),
        "notes": offer_notes(offer),
    }


def fleet_state(view: FleetView, runs: Runs) -> dict[str, object]:
    """Return what the card of a fleet shows."""
    machines = [_machine(one, runs) for one in view.instances]
    troubled = {MachineWord.BROKEN, MachineWord.SILENT}
    return {
        "name": view.fleet.name,
        "sentence": fleet_sentence(view),
        "final": view.fleet.finished,
        "troubled": any(one["word"] in troubled for one in machines),
        "machines": machines,
    }


def _machine(instance: Instance, runs: Runs) -> dict[str, object]:
    standing = machine_standing(instance)
    return {
        "name": instance.name,
        "host": host_text(instance),
        "word": str(standing.word),
        "sign": standing.sign,
        "facts": machine_facts(instance, standing, runs),
        "checks": [_check(finding) for finding in findings_of(instance)],
    }


def _check(finding: Finding) -> dict[str, object]:
    return {
        "mark": mark_of(finding),
        "subject": finding.subject,
        "text": finding.text,
        "fix": None if finding.ok else finding.fix,
    }


def _step(step: Step) -> dict[str, object]:
    return {
        "label": step.label,
        "state": str(step.state),
        "at": None if step.at is None else milliseconds(step.at),
        "text": step.text,
        "fraction": step.fraction,
    }


def _ports(job: Job | None) -> list[dict[str, object]]:
    if job is None or job.finished:
        return []
    return [{"port": route.container_port, "url": route.url} for route in job.routes]


def _meter(label: str, text: str, used: float, limit: float | None) -> dict[str, object]:
    return {"label": label, "text": text, "fraction": used / limit if limit else None}
