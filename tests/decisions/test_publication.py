"""What is told to the gateway."""

from __future__ import annotations

from dataclasses import replace

from dstack_engine.decisions.publication import models_of, publish
from dstack_engine.records.jobs import Job, JobReason, JobStatus
from dstack_engine.records.publication import (
    GatewayReport,
    ModelUsage,
    Publication,
    PublishedReplica,
    PublishedService,
    ReplicaReport,
    ReplicaState,
    ServiceReport,
)
from dstack_engine.records.routes import Route
from dstack_engine.records.runs import Run, RunStatus
from dstack_engine.records.services import Rest, Retiring, ServiceState
from dstack_engine.records.updates import ModelView
from tests.decisions.samples import NOON, a_job, a_run, wants

FOX = "port: 80\n"


def a_service(text: str = FOX, **state: object) -> Run:
    wanted = wants(text, type="service")
    return a_run(wanted, service=ServiceState(desired=1, **state))  # type: ignore[arg-type]


def a_replica(number: int, **facts: object) -> Job:
    given = {"status": JobStatus.RUNNING, "routes": (Route(21000 + number, 80),), **facts}
    return replace(a_job(replica=number, id=f"fox-0-{number}/1"), **given)  # type: ignore[arg-type]


def published(run: Run, *jobs: Job) -> PublishedService:
    (found,) = publish([run], {run.id: jobs}, version=1, tokens=()).services
    return found


def test_replicas_that_run_are_published_with_where_they_are() -> None:
    service = published(
        a_service(), a_replica(1), a_replica(0), a_replica(2, status=JobStatus.PULLING)
    )
    assert service.replicas == (
        PublishedReplica("fox-0-0/1", "127.0.0.1", 21000),
        PublishedReplica("fox-0-1/1", "127.0.0.1", 21001),
    )
    assert (service.holds, service.trouble, service.auth) == (True, None, True)


def test_a_service_is_published_before_it_has_a_replica_so_that_requests_are_held() -> None:
    assert published(a_service()).holds


def test_who_leaves_is_published_as_draining() -> None:
    leaving = Retiring(a_replica(1).id, NOON, JobReason.SCALED_DOWN)
    service = published(a_service(retiring=(leaving,)), a_replica(0), a_replica(1))
    assert [one.draining for one in service.replicas] == [False, True]


def test_a_service_that_is_being_stopped_drains_and_holds_nothing() -> None:
    service = published(replace(a_service(), stop_requested_at=NOON), a_replica(0))
    assert [one.draining for one in service.replicas] == [True]
    assert (service.holds, service.trouble) == (False, "it is being stopped")


def test_what_hinders_it_is_told() -> None:
    rest = Rest(0, NOON, "ended with an error: exit code 3")
    assert published(a_service(resting=(rest,))).trouble == (
        "replica 0 ended with an error: exit code 3"
    )
    waiting = a_replica(0, status=JobStatus.SUBMITTED, waiting="waits for 1 GPU")
    assert published(a_service(), waiting).trouble == "replica 0 waits for 1 GPU"


def test_tasks_and_ended_services_are_not_published() -> None:
    task, ended = a_run(wants()), replace(a_service(), status=RunStatus.TERMINATED)
    assert publish([task, ended], {}, version=7, tokens=["a"]) == Publication(7, (), ("a",))


def test_a_model_is_listed_with_every_service_of_it_and_its_ready_replicas() -> None:
    one = a_service(FOX + "model: llama\n")
    two = replace(one, name="owl")
    ready, probing = (
        ReplicaReport(f"fox-0-0/{n}", state)
        for n, state in enumerate([ReplicaState.READY, ReplicaState.PROBING])
    )
    usage = ModelUsage("llama", "01234567", requests=3)
    report = GatewayReport(
        1,
        1,
        4180,
        (ServiceReport("fox", "1", (ready, probing)), ServiceReport("owl", "2", (ready,))),
        (usage, ModelUsage("other", "")),
    )
    assert models_of([two, one, a_service()], report) == [
        ModelView("llama", ("fox", "owl"), 2, (usage,))
    ]
    assert models_of([one], None) == [ModelView("llama", ("fox",), 0, ())]
