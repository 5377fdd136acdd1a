"""Services in the engine's loops over fakes: published, held, replaced, drained, told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dstack_engine.errors import Conflict
from dstack_engine.home import Home
from dstack_engine.housekeeping import Housekeeping
from dstack_engine.records.jobs import Job, JobId, JobReason, JobStatus
from dstack_engine.records.offers import OfferId
from dstack_engine.records.publication import Load, PublishedService
from dstack_engine.records.runs import RunStatus, RunView
from dstack_engine.records.updates import ModelView
from dstack_engine.spec.configurations import Runnable
from dstack_engine.spec.parsing import configuration_from_dict
from dstack_engine.tokens import digest_of, read_token
from tests.reconcilers.test_engine import Ground, a_task


def a_service(**written: object) -> Runnable:
    service = {"type": "service", "name": "fox", "commands": ["sleep 9"], "port": 80, **written}
    return configuration_from_dict(service)  # type: ignore[return-value]  # a service is runnable


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(Home(tmp_path / "home"))
    yield ground
    ground.close()


def submit(ground: Ground, number: int = 1, **written: object) -> RunView:
    return ground.engine.submit(a_service(**written), submission=f"submission-{number}")


def told(ground: Ground) -> tuple[PublishedService, ...]:
    """Return what the gateway was told last; nothing before it was told anything."""
    return ground.gateway.published[-1].services if ground.gateway.published else ()


def published(ground: Ground) -> PublishedService:
    (service,) = told(ground)
    return service


def living(view: RunView) -> list[Job]:
    return [job for job in view.jobs if not job.finished]


def until_running(ground: Ground, *jobs: str) -> RunView:
    """Return the service once exactly these jobs live, run and are published."""

    def run(view: RunView) -> bool:
        running = {job.id for job in living(view) if job.status is JobStatus.RUNNING}
        given = {one.job for service in told(ground) for one in service.replicas}
        alone = len(living(view)) == len(jobs) and running == given == set(jobs)
        return alone and view.status is RunStatus.RUNNING

    return ground.until("fox", run)


def test_a_service_is_published_with_each_replica_that_runs(ground: Ground) -> None:
    submit(ground, replicas=2, auth=False)
    view = until_running(ground, "fox-0-0/1", "fox-0-1/1")
    service = published(ground)
    assert (service.run, service.run_id, service.auth) == ("fox", view.run.id, False)
    ports = [job.routes[0].local_port for job in living(view)]
    assert [one.port for one in service.replicas] == ports
    assert len(set(ports)) == 2
    assert all(port >= 21000 for port in ports)
    digest = digest_of(read_token(ground.world.home))
    assert ground.gateway.published[-1].tokens == (digest,)


def test_a_plain_process_is_told_the_port_that_is_its_own(ground: Ground) -> None:
    wanted = a_service(replicas=2, commands=["sleep $DSTACK_SERVICE_PORT"])
    ground.engine.submit(wanted, submission="submission-1", offers=[OfferId("local/process")])
    view = until_running(ground, "fox-0-0/1", "fox-0-1/1")
    specs = [ground.process.machine.containers[job.container].spec for job in living(view)]
    ports = [spec.routes[0].local_port for spec in specs]
    assert len(set(ports)) == 2
    assert [spec.routes[0].container_port for spec in specs] == ports
    assert [spec.environment["DSTACK_SERVICE_PORT"] for spec in specs] == [str(p) for p in ports]


def test_plain_processes_with_one_port_wait_for_each_other_and_are_told_how_not_to(
    ground: Ground,
) -> None:
    wanted = a_service(replicas=2, port=8080)
    ground.engine.submit(wanted, submission="submission-1", offers=[OfferId("local/process")])
    view = ground.until("fox", lambda view: any(job.waiting for job in view.jobs))
    (waiting,) = [job.waiting for job in view.jobs if job.waiting]
    assert waiting.startswith("waits for port 8080: in use by run fox")
    assert "$DSTACK_SERVICE_PORT" in waiting


def test_a_request_that_is_held_starts_the_first_replica(ground: Ground) -> None:
    submit(ground, replicas="0..2", scaling={"metric": "rps", "target": 10})
    ground.until_status("fox", RunStatus.PENDING)
    ground.until("fox", lambda _view: any(service.holds for service in told(ground)))
    ground.gateway.report_on("fox", held=1, loads=(Load(60, 1),))
    view = until_running(ground, "fox-0-0/1")
    assert view.run.service is not None
    assert (view.run.service.scaled_why or "").startswith("0 → 1: ")


def test_a_replica_that_ended_is_replaced_and_the_service_goes_on(ground: Ground) -> None:
    submit(ground, replicas=2)
    view = until_running(ground, "fox-0-0/1", "fox-0-1/1")
    ground.docker.finish(living(view)[0].container)
    ground.until("fox", lambda view: view.run.service is not None and view.run.service.resting)
    view = until_running(ground, "fox-0-1/1", "fox-0-0/2")
    assert view.jobs[0].reason is JobReason.DONE_BY_RUNNER


def test_a_stop_drains_every_replica_before_it_is_ended(ground: Ground) -> None:
    submit(ground)
    until_running(ground, "fox-0-0/1")
    ground.gateway.answering["fox-0-0/1"] = 1
    ground.engine.stop_run("fox")
    ground.until("fox", lambda _view: published(ground).replicas[0].draining)
    assert published(ground).holds is False
    (job,) = ground.engine.run("fox").jobs
    assert job.status is JobStatus.RUNNING
    ground.gateway.answering.clear()
    ground.gateway.tell()
    view = ground.until_status("fox", RunStatus.TERMINATED)
    assert view.jobs[0].reason is JobReason.TERMINATED_BY_USER
    ground.until("fox", lambda _view: ground.gateway.published[-1].services == ())


def test_an_abort_does_not_wait_for_what_is_being_answered(ground: Ground) -> None:
    submit(ground)
    until_running(ground, "fox-0-0/1")
    ground.gateway.answering["fox-0-0/1"] = 1
    ground.engine.stop_run("fox", abort=True)
    view = ground.until_status("fox", RunStatus.TERMINATED)
    assert view.jobs[0].status is JobStatus.ABORTED


def test_submitted_again_a_living_service_is_renewed_under_the_same_id(ground: Ground) -> None:
    first = submit(ground)
    until_running(ground, "fox-0-0/1")
    assert submit(ground, 2).run.id == first.run.id
    again = submit(ground, 3, commands=["sleep 10"])
    assert again.run.id == first.run.id
    view = until_running(ground, "fox-0-1/1")
    assert view.run.service is not None
    assert view.run.service.deployment == 2
    ground.until("fox", lambda view: len(living(view)) == 1)
    with pytest.raises(Conflict, match="named 'fox'"):
        ground.engine.submit(a_task(), submission="submission-4")


def test_what_the_gateway_saw_is_told_by_name(ground: Ground) -> None:
    submit(ground, model="llama")
    until_running(ground, "fox-0-0/1")
    ground.gateway.report_on("fox", rps=2.5)
    seen = ground.engine.service_report("fox")
    assert seen is not None
    assert (seen.run, seen.rps) == ("fox", 2.5)
    assert ground.engine.models() == [ModelView("llama", ("fox",), 1)]
    assert ground.engine.gateway().url_of("fox") == "http://fox.localhost:4180/"
    ground.submit(2, name="owl")
    with pytest.raises(Conflict, match="is a task"):
        ground.engine.service_report("owl")


def test_streams_hear_of_traffic_when_it_changes(ground: Ground) -> None:
    submit(ground)
    until_running(ground, "fox-0-0/1")
    subscription = ground.world.live.subscribe(lambda: None)
    ground.gateway.report_on("fox", rps=1.0)
    assert [one.rps for one in subscription.take().services] == [1.0]
    ground.gateway.tell()
    assert subscription.take().services == ()


def test_an_engine_that_ends_leaves_the_gateway_while_a_service_lives(ground: Ground) -> None:
    ground.engine.stop()
    assert ground.gateway.stopped is True


def test_the_gateway_serves_on_for_a_service_that_lives(ground: Ground) -> None:
    submit(ground)
    until_running(ground, "fox-0-0/1")
    ground.engine.stop()
    assert ground.gateway.stopped is False


def test_a_log_is_that_of_the_replica_asked_for(ground: Ground) -> None:
    submit(ground, replicas=2)
    view = until_running(ground, "fox-0-0/1", "fox-0-1/1")
    assert ground.engine.newest_job("fox", 1).id == "fox-0-1/1"
    assert ground.engine.newest_job("fox").id == "fox-0-0/1"
    ground.docker.stop(living(view)[0].container, timedelta(0))
    ground.until("fox", lambda view: view.jobs[0].finished)
    assert ground.engine.newest_job("fox").replica == 1


def test_a_service_that_crashed_for_weeks_leaves_only_its_newest_attempts(ground: Ground) -> None:
    submit(ground)
    view = until_running(ground, "fox-0-0/1")
    (first,) = view.jobs
    assert first.offer is not None
    assert first.placed_at is not None
    hour = {"placed_at": first.placed_at, "finished_at": first.placed_at + timedelta(hours=1)}
    paid = {"offer": replace(first.offer, price=2.0), **hour}
    crash = {"status": JobStatus.FAILED, "reason": JobReason.KILLED_BY_SIGNAL, **paid}
    with ground.world.store.transaction(ground.world.clock()) as transaction:
        for attempt in range(2, 60):
            crashed = replace(first, id=JobId(f"fox-0-3/{attempt}"), replica=3, attempt=attempt)
            transaction.insert(replace(crashed, **crash))  # type: ignore[arg-type]  # mypy sees objects
    Housekeeping(ground.engine, lambda: iter(())).reap()
    left = [job.id for job in ground.engine.run("fox").jobs]
    assert left == ["fox-0-0/1", *(f"fox-0-3/{attempt}" for attempt in range(50, 60))]
    assert ground.engine.run("fox").cost(ground.world.clock()) == pytest.approx(2.0 * 58)
