"""How a job moves on."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from dstack_engine.decisions.jobs import (
    PATIENCE,
    RETRIED_PATIENCE,
    JobSighting,
    NoPlace,
    Placed,
    Silence,
    Unfit,
    Waits,
    advance_job,
)
from dstack_engine.records.jobs import Job, JobId, JobReason, JobStatus, Reservation, TriedOffer
from dstack_engine.records.offers import HostKind, MachineShape, Offer, OfferId
from dstack_engine.records.routes import Route
from dstack_engine.records.sightings import Container, Sighting

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
MORNING = NOON - timedelta(hours=3)
OFFER = Offer(
    OfferId("local/docker"), "local", "local", "this computer", HostKind.DOCKER,
    MachineShape(2, 8.0), 0.0,
)  # fmt: skip


def a_job(status: JobStatus, **facts: object) -> Job:
    job = Job(
        id=JobId("fox-0-0/1"),
        run_id="abcdef0123",
        run_name="fox",
        node=0,
        replica=0,
        attempt=1,
        status=status,
        since=MORNING,
        submitted_at=MORNING,
    )
    if status not in (JobStatus.SUBMITTED,):
        job = replace(
            job, offer=OFFER, instance="local", reservation=Reservation(), placed_at=MORNING
        )
    return replace(job, **facts)  # type: ignore[arg-type]


def exited(**facts: object) -> JobSighting:
    return JobSighting(container=Sighting(Container.EXITED, **facts), drained=True)  # type: ignore[arg-type]


def test_a_job_that_finds_a_place_keeps_it() -> None:
    place = Placed(OFFER, "local", Reservation(cpus=2), (Route(8080, 80),), "python:3.12-slim")
    after = advance_job(a_job(JobStatus.SUBMITTED, waiting="x"), JobSighting(placed=place), NOON)
    assert after == a_job(
        JobStatus.PROVISIONING,
        since=NOON,
        reservation=Reservation(cpus=2),
        routes=(Route(8080, 80),),
        image="python:3.12-slim",
        placed_at=NOON,
    )


def test_a_job_that_waits_says_why_and_says_it_once() -> None:
    job = a_job(JobStatus.SUBMITTED)
    after = advance_job(job, JobSighting(placed=Waits("waits for 1 GPU")), NOON)
    assert after == replace(job, waiting="waits for 1 GPU")
    assert advance_job(after, JobSighting(placed=Waits("waits for 1 GPU")), NOON) is after


def test_a_job_without_a_place_ends_failed() -> None:
    after = advance_job(a_job(JobStatus.SUBMITTED), JobSighting(placed=NoPlace("none fits")), NOON)
    assert (after.status, after.reason) == (JobStatus.FAILED, JobReason.NO_CAPACITY)
    assert (after.detail, after.finished_at) == ("none fits", NOON)


def test_a_waiting_job_that_is_stopped_ends_at_once() -> None:
    wish = JobSighting(wish=JobReason.TERMINATED_BY_USER)
    after = advance_job(a_job(JobStatus.SUBMITTED), wish, NOON)
    assert (after.status, after.finished_at) == (JobStatus.TERMINATED, NOON)


def test_a_job_whose_image_cannot_be_had_tries_the_next_offer_and_remembers_why() -> None:
    unfit = Unfit("no such image", JobReason.IMAGE_UNAVAILABLE)
    after = advance_job(a_job(JobStatus.PULLING), JobSighting(unfit=unfit), NOON)
    assert after.status is JobStatus.SUBMITTED
    assert after.tried == (TriedOffer(OFFER.id, "no such image"),)
    assert after.offer is None
    last = advance_job(after, JobSighting(placed=NoPlace("no offer is left")), NOON)
    assert (last.status, last.reason) == (JobStatus.FAILED, JobReason.IMAGE_UNAVAILABLE)


@pytest.mark.parametrize("container", [Container.UP, Container.EXITED])
def test_a_prepared_job_runs_from_when_its_container_started(container: Container) -> None:
    seen = JobSighting(container=Sighting(container, started_at=MORNING))
    after = advance_job(a_job(JobStatus.PULLING), seen, NOON)
    assert (after.status, after.started_at, after.since) == (JobStatus.RUNNING, MORNING, NOON)


@pytest.mark.parametrize(
    ("seen", "reason", "status", "detail"),
    [
        (exited(exit_code=0), JobReason.DONE_BY_RUNNER, JobStatus.DONE, None),
        (exited(exit_code=3), JobReason.CONTAINER_EXITED_WITH_ERROR, JobStatus.FAILED,
         "exit code 3"),
        (exited(exit_code=137, signal=9), JobReason.KILLED_BY_SIGNAL, JobStatus.FAILED, "SIGKILL"),
        (exited(exit_code=137, out_of_memory=True), JobReason.OUT_OF_MEMORY, JobStatus.FAILED,
         None),
        (exited(timed_out=True), JobReason.MAX_DURATION_EXCEEDED, JobStatus.TERMINATED, None),
        (exited(exit_code=137, interrupted=True), JobReason.INTERRUPTED, JobStatus.FAILED, None),
        (JobSighting(container=Sighting(Container.ABSENT), drained=True), JobReason.INTERRUPTED,
         JobStatus.FAILED, "its container is gone"),
    ],
)  # fmt: skip
def test_each_way_to_end_has_its_own_reason(
    seen: JobSighting, reason: JobReason, status: JobStatus, detail: str | None
) -> None:
    ending = advance_job(a_job(JobStatus.RUNNING, started_at=MORNING), seen, NOON)
    assert (ending.status, ending.reason, ending.detail) == (JobStatus.TERMINATING, reason, detail)
    ended = advance_job(ending, JobSighting(stopped=True, drained=True), NOON)
    assert (ended.status, ended.finished_at) == (status, NOON)


def test_a_job_ends_only_when_its_output_is_kept() -> None:
    job = a_job(JobStatus.RUNNING, started_at=MORNING)
    seen = JobSighting(container=Sighting(Container.EXITED, exit_code=0))
    assert advance_job(job, seen, NOON) is job
    ending = a_job(JobStatus.TERMINATING, reason=JobReason.DONE_BY_RUNNER)
    assert advance_job(ending, JobSighting(stopped=True), NOON) is ending


def test_a_job_past_its_max_duration_is_ended_also_without_its_supervisor() -> None:
    job = a_job(JobStatus.RUNNING, started_at=MORNING)
    limit = timedelta(hours=1)
    after = advance_job(job, JobSighting(max_duration=limit, ran=2 * limit), NOON)
    assert (after.status, after.reason) == (JobStatus.TERMINATING, JobReason.MAX_DURATION_EXCEEDED)
    assert advance_job(job, JobSighting(max_duration=limit, ran=limit), NOON) is job


def test_a_job_whose_host_does_not_answer_stays_as_it_is() -> None:
    job = a_job(JobStatus.RUNNING, started_at=MORNING)
    assert advance_job(job, JobSighting(), NOON) is job


@pytest.mark.parametrize("status", [JobStatus.PROVISIONING, JobStatus.PULLING, JobStatus.RUNNING])
def test_whoever_has_a_place_ends_through_terminating(status: JobStatus) -> None:
    after = advance_job(a_job(status), JobSighting(wish=JobReason.ABORTED_BY_USER), NOON)
    assert (after.status, after.reason) == (JobStatus.TERMINATING, JobReason.ABORTED_BY_USER)
    ended = advance_job(after, JobSighting(stopped=True, drained=True), NOON)
    assert ended.status is JobStatus.ABORTED


def test_one_of_several_nodes_is_prepared_and_waits_for_the_others() -> None:
    pulling = a_job(JobStatus.PULLING)
    after = advance_job(pulling, JobSighting(prepared=True), NOON)
    assert after == replace(pulling, prepared=True)
    told = advance_job(after, JobSighting(waiting="waits for node 1"), NOON)
    assert told == replace(after, waiting="waits for node 1")
    up = JobSighting(container=Sighting(Container.UP))
    running = advance_job(told, up, NOON)
    assert (running.status, running.waiting) == (JobStatus.RUNNING, None)


def test_a_node_that_cannot_start_once_all_were_prepared_has_no_other_machine() -> None:
    pulling = a_job(JobStatus.PULLING, prepared=True)
    unfit = JobSighting(unfit=Unfit("port 8080 is taken", JobReason.PORTS_BINDING_FAILED))
    after = advance_job(pulling, unfit, NOON)
    assert (after.status, after.reason) == (JobStatus.TERMINATING, JobReason.PORTS_BINDING_FAILED)
    assert after.detail == "port 8080 is taken"


def silent(job: Job, seconds: float, patience: timedelta = PATIENCE) -> Job:
    silence = Silence("lab-1", "Connection timed out", timedelta(seconds=seconds), patience)
    return advance_job(job, JobSighting(silence=silence), NOON)


def test_a_lost_link_is_no_failed_job_and_is_told_of_in_steps() -> None:
    job = a_job(JobStatus.RUNNING)
    told = [silent(job, seconds).waiting for seconds in (3, 47, 49, 61, 1199)]
    assert told == [
        "lab-1 does not answer: Connection timed out",
        "lab-1 has not answered for 40 s: Connection timed out",
        "lab-1 has not answered for 40 s: Connection timed out",
        "lab-1 has not answered for 1 min: Connection timed out",
        "lab-1 has not answered for 19 min: Connection timed out",
    ]
    assert silent(job, 1199).status is JobStatus.RUNNING
    back = advance_job(silent(job, 47), JobSighting(), NOON)
    assert (back.status, back.waiting) == (JobStatus.RUNNING, None)


def test_a_job_is_interrupted_when_its_machine_was_silent_for_too_long() -> None:
    for status in (JobStatus.PROVISIONING, JobStatus.PULLING, JobStatus.RUNNING):
        after = silent(a_job(status), 125, RETRIED_PATIENCE)
        assert (after.status, after.reason) == (JobStatus.TERMINATING, JobReason.INTERRUPTED)
        assert after.detail == "lab-1 has not answered for 2 min: Connection timed out"
        assert silent(after, 126).status is JobStatus.FAILED, "nobody waits for its end"


def test_a_stop_waits_a_while_for_a_silent_machine_and_an_abort_does_not() -> None:
    stopping = replace(a_job(JobStatus.TERMINATING), reason=JobReason.TERMINATED_BY_USER)
    assert silent(stopping, 119).status is JobStatus.TERMINATING
    assert silent(stopping, 120).status is JobStatus.TERMINATED
    aborting = replace(stopping, reason=JobReason.ABORTED_BY_USER)
    assert silent(aborting, 1).status is JobStatus.ABORTED


def test_a_job_whose_machine_is_ours_no_more_is_interrupted_at_once() -> None:
    lost = JobSighting(lost="lab-1 is ours no more")
    after = advance_job(a_job(JobStatus.RUNNING), lost, NOON)
    assert (after.reason, after.detail) == (JobReason.INTERRUPTED, "lab-1 is ours no more")
    assert advance_job(after, lost, NOON).status is JobStatus.FAILED
