"""What is published: from the services' records to what the gateway is told of them. Pure.

The route loop calls `publish` whenever a service or a replica's job has changed, and tells the
gateway when that makes a difference. A service is published as soon as it is submitted, also
without a replica: its requests are held meanwhile, and what is held starts one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dstack_engine.records.jobs import Job, JobStatus
from dstack_engine.records.publication import (
    GatewayReport,
    Publication,
    PublishedReplica,
    PublishedService,
    ReplicaState,
    ServiceReport,
)
from dstack_engine.records.runs import Run, RunStatus
from dstack_engine.records.updates import ModelView
from dstack_engine.spec.configurations import ServiceConfiguration


def publish(
    runs: Iterable[Run], jobs: Mapping[str, Sequence[Job]], *, version: int, tokens: Sequence[str]
) -> Publication:
    """Return everything that is published now; *jobs* are the runs' jobs, by run id."""
    services = (_publish_service(run, jobs.get(run.id, ())) for run in runs if not run.finished)
    found = sorted((one for one in services if one is not None), key=lambda one: one.run)
    return Publication(version=version, services=tuple(found), tokens=tuple(tokens))


def models_of(runs: Iterable[Run], report: GatewayReport | None) -> list[ModelView]:
    """Return the models that living services serve, by name, with what the gateway counted."""
    serving: dict[str, list[str]] = {}
    for run in runs:
        wanted = run.configuration
        if isinstance(wanted, ServiceConfiguration) and wanted.model and not run.finished:
            serving.setdefault(wanted.model.name, []).append(run.name)
    seen = {service.run: service for service in report.services} if report is not None else {}
    usage = report.models if report is not None else ()
    return [
        ModelView(
            name=name,
            runs=tuple(sorted(served_by)),
            ready_replicas=sum(_ready(seen.get(run)) for run in served_by),
            usage=tuple(one for one in usage if one.model == name),
        )
        for name, served_by in sorted(serving.items())
    ]


def _ready(report: ServiceReport | None) -> int:
    if report is None:
        return 0
    return sum(replica.state is ReplicaState.READY for replica in report.replicas)


def _publish_service(run: Run, jobs: Sequence[Job]) -> PublishedService | None:
    wanted = run.configuration
    if not isinstance(wanted, ServiceConfiguration):
        return None
    ending = run.status is RunStatus.TERMINATING or run.stop_requested_at is not None
    leaving = {one.job for one in run.service.retiring} if run.service is not None else set()
    running = [job for job in jobs if job.status is JobStatus.RUNNING and job.routes]
    return PublishedService(
        run=run.name,
        run_id=run.id,
        auth=wanted.auth,
        model=wanted.model,
        probes=wanted.probes,
        rate_limits=wanted.rate_limits,
        replicas=tuple(
            PublishedReplica(
                job=job.id,
                host=job.routes[0].address,
                port=job.routes[0].local_port,
                draining=ending or job.id in leaving,
            )
            for job in sorted(running, key=lambda job: (job.replica, job.attempt))
        ),
        holds=not ending and wanted.replicas.max > 0,
        trouble=_trouble(run, jobs),
    )


def _trouble(run: Run, jobs: Sequence[Job]) -> str | None:
    """Return why there is no replica, or not as many as there should be."""
    if run.stop_requested_at is not None:
        return "it is being stopped"
    if run.service is not None and run.service.resting:
        rest = run.service.resting[0]
        return f"replica {rest.replica} {rest.why}"
    waiting = [job for job in jobs if job.status is JobStatus.SUBMITTED and job.waiting]
    if waiting:
        return f"replica {waiting[0].replica} {waiting[0].waiting}"
    wanted = run.configuration
    if isinstance(wanted, ServiceConfiguration) and wanted.replicas.max == 0:
        return "its configuration says `replicas: 0`"
    return None
