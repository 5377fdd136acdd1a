"""How a run moves on."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from dstack_engine.decisions.runs import (
    RETRY_WAITS,
    RetryRule,
    advance_run,
    window_start,
    wish_for,
)
from dstack_engine.records.jobs import Job, JobReason, JobStatus
from dstack_engine.records.runs import Run, RunId, RunReason, RunStatus
from dstack_engine.spec.configurations import TaskConfiguration

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
TASK = TaskConfiguration.model_validate({"type": "task", "commands": ["true"]})
ERRORS = RetryRule(frozenset({"error"}), HOUR)


def a_run(status: RunStatus = RunStatus.SUBMITTED, **facts: object) -> Run:
    run = Run(RunId("1"), "fox", TASK, status, since=NOON, submitted_at=NOON)
    return replace(run, **facts)  # type: ignore[arg-type]


def first_jobs(nodes: int = 1) -> tuple[Job, ...]:
    return advance_run(a_run(), [], None, nodes, NOON).new_jobs


def ended(job: Job, reason: JobReason, at: datetime = NOON) -> Job:
    return replace(
        job, status=reason.final_status, reason=reason, started_at=at, finished_at=at, since=at
    )


def test_a_new_run_gets_a_job_for_each_node() -> None:
    after = advance_run(a_run(), [], None, 3, NOON)
    assert [job.id for job in after.new_jobs] == ["fox-0-0/1", "fox-1-0/1", "fox-2-0/1"]
    assert after.run.status is RunStatus.SUBMITTED


@pytest.mark.parametrize(
    ("job_status", "run_status"),
    [
        (JobStatus.SUBMITTED, RunStatus.SUBMITTED),
        (JobStatus.PROVISIONING, RunStatus.PROVISIONING),
        (JobStatus.PULLING, RunStatus.PROVISIONING),
        (JobStatus.RUNNING, RunStatus.RUNNING),
    ],
)
def test_a_run_follows_its_job(job_status: JobStatus, run_status: RunStatus) -> None:
    (job,) = first_jobs()
    job = replace(job, status=job_status, started_at=NOON)
    assert advance_run(a_run(), [job], None, 1, NOON).run.status is run_status


def test_a_run_is_done_when_all_its_jobs_are() -> None:
    jobs = [ended(job, JobReason.DONE_BY_RUNNER) for job in first_jobs(2)]
    run = advance_run(a_run(), jobs, None, 2, NOON + HOUR).run
    assert (run.status, run.reason) == (RunStatus.DONE, RunReason.ALL_JOBS_DONE)
    assert (run.started_at, run.finished_at) == (NOON, NOON + HOUR)


def test_a_failed_job_fails_the_run_and_ends_its_siblings() -> None:
    one, two = first_jobs(2)
    jobs = [ended(one, JobReason.OUT_OF_MEMORY), replace(two, status=JobStatus.RUNNING)]
    run = advance_run(a_run(RunStatus.RUNNING), jobs, None, 2, NOON).run
    assert (run.status, run.reason) == (RunStatus.TERMINATING, RunReason.JOB_FAILED)
    assert wish_for(run) is JobReason.TERMINATED_BY_SERVER


def test_a_failure_that_is_retried_waits_longer_each_time() -> None:
    run, jobs, now = a_run(RunStatus.RUNNING), list(first_jobs()), NOON
    for wait in RETRY_WAITS[:3]:
        jobs[-1] = ended(jobs[-1], JobReason.CONTAINER_EXITED_WITH_ERROR, now)
        run = advance_run(run, jobs, ERRORS, 1, now).run
        assert (run.status, run.retry_at) == (RunStatus.PENDING, now + wait)
        assert advance_run(run, jobs, ERRORS, 1, now).new_jobs == ()
        now += wait
        after = advance_run(run, jobs, ERRORS, 1, now)
        assert after.run.status is RunStatus.SUBMITTED
        jobs += after.new_jobs
        run = after.run
    assert jobs[-1].id == "fox-0-0/4"


def test_a_failure_outside_the_rule_is_not_retried() -> None:
    (job,) = first_jobs()
    failed = ended(job, JobReason.INTERRUPTED)
    assert advance_run(a_run(), [failed], ERRORS, 1, NOON).run.reason is RunReason.JOB_FAILED


def test_no_capacity_is_retried_for_its_duration_from_the_submission() -> None:
    rule = RetryRule(frozenset({"no-capacity"}), HOUR)
    (job,) = first_jobs()
    failed = replace(job, status=JobStatus.FAILED, reason=JobReason.NO_CAPACITY, finished_at=NOON)
    assert window_start(a_run(), [failed]) == a_run().submitted_at
    in_time, over = replace(rule, spent=HOUR), replace(rule, spent=2 * HOUR)
    assert advance_run(a_run(), [failed], in_time, 1, NOON).run.status is RunStatus.PENDING
    late = advance_run(a_run(), [failed], over, 1, NOON).run
    assert (late.status, late.reason) == (RunStatus.FAILED, RunReason.RETRY_LIMIT_EXCEEDED)


def test_each_failure_of_a_job_that_ran_opens_a_new_window() -> None:
    one, two = (replace(job, attempt=n) for n, job in enumerate(first_jobs(2), start=1))
    jobs = [
        ended(one, JobReason.OUT_OF_MEMORY, NOON),
        ended(two, JobReason.OUT_OF_MEMORY, NOON + HOUR),
    ]
    assert window_start(a_run(), jobs) == NOON + HOUR


def test_a_clock_that_was_set_back_does_not_put_off_the_next_attempt() -> None:
    (job,) = first_jobs()
    failed = ended(job, JobReason.CONTAINER_EXITED_WITH_ERROR)
    run = a_run(RunStatus.PENDING, since=NOON, retry_at=NOON + RETRY_WAITS[0])
    assert advance_run(run, [failed], ERRORS, 1, NOON).new_jobs == ()
    assert len(advance_run(run, [failed], ERRORS, 1, NOON - 5 * HOUR).new_jobs) == 1


def test_max_duration_ends_the_run_terminated_and_is_never_retried() -> None:
    (job,) = first_jobs()
    over = ended(job, JobReason.MAX_DURATION_EXCEEDED)
    every = RetryRule(frozenset({"error", "interruption", "no-capacity"}), HOUR)
    run = advance_run(a_run(RunStatus.RUNNING), [over], every, 1, NOON).run
    assert (run.status, run.reason) == (RunStatus.TERMINATED, RunReason.MAX_DURATION_EXCEEDED)


@pytest.mark.parametrize(
    ("abort", "reason", "wish"),
    [
        (False, RunReason.STOPPED_BY_USER, JobReason.TERMINATED_BY_USER),
        (True, RunReason.ABORTED_BY_USER, JobReason.ABORTED_BY_USER),
    ],
)
def test_a_wish_to_stop_goes_to_the_jobs_and_ends_the_run(
    abort: bool, reason: RunReason, wish: JobReason
) -> None:
    (job,) = first_jobs()
    running = replace(job, status=JobStatus.RUNNING, started_at=NOON)
    run = a_run(RunStatus.RUNNING, stop_requested_at=NOON, abort=abort)
    assert wish_for(run) is wish
    run = advance_run(run, [running], None, 1, NOON).run
    assert (run.status, run.reason) == (RunStatus.TERMINATING, reason)
    run = advance_run(run, [ended(job, wish)], None, 1, NOON).run
    assert run.status is RunStatus.TERMINATED


def test_a_run_stopped_before_it_began_ends_without_a_job() -> None:
    run = advance_run(a_run(stop_requested_at=NOON), [], None, 1, NOON).run
    assert run.status is RunStatus.TERMINATED


def test_a_pending_run_that_is_stopped_tries_no_more() -> None:
    (job,) = first_jobs()
    failed = ended(job, JobReason.CONTAINER_EXITED_WITH_ERROR)
    run = a_run(RunStatus.PENDING, retry_at=NOON + HOUR, stop_requested_at=NOON)
    after = advance_run(run, [failed], ERRORS, 1, NOON)
    assert (after.run.status, after.new_jobs) == (RunStatus.TERMINATED, ())


# --- several nodes ------------------------------------------------------------------------------


def test_all_nodes_are_tried_again_once_the_last_of_them_has_ended() -> None:
    one, two = first_jobs(2)
    failed = ended(one, JobReason.CONTAINER_EXITED_WITH_ERROR)
    alive = replace(two, status=JobStatus.TERMINATING, started_at=NOON)
    run = advance_run(a_run(RunStatus.RUNNING), [failed, alive], ERRORS, 2, NOON).run
    assert run.status is RunStatus.PENDING
    assert wish_for(run) is JobReason.TERMINATED_BY_SERVER
    assert advance_run(run, [failed, alive], ERRORS, 2, NOON + HOUR).new_jobs == ()
    jobs = [failed, ended(two, JobReason.TERMINATED_BY_SERVER)]
    after = advance_run(run, jobs, ERRORS, 2, NOON + HOUR)
    assert [job.id for job in after.new_jobs] == ["fox-0-0/2", "fox-1-0/2"]


def with_criteria(criteria: str, status: RunStatus = RunStatus.RUNNING) -> Run:
    task = {"type": "task", "commands": ["true"], "nodes": 2, "stop_criteria": criteria}
    return a_run(status, configuration=TaskConfiguration.model_validate(task))


def test_with_master_done_the_run_ends_with_its_first_node_whatever_the_others_do() -> None:
    master, worker = first_jobs(2)
    done = ended(master, JobReason.DONE_BY_RUNNER)
    alive = replace(worker, status=JobStatus.RUNNING, started_at=NOON)
    run = advance_run(with_criteria("master-done"), [done, alive], None, 2, NOON).run
    assert (run.status, run.reason) == (RunStatus.TERMINATING, RunReason.ALL_JOBS_DONE)
    stopped = ended(worker, JobReason.TERMINATED_BY_SERVER)
    assert advance_run(run, [done, stopped], None, 2, NOON).run.status is RunStatus.DONE
    lost = ended(worker, JobReason.CONTAINER_EXITED_WITH_ERROR)
    run = advance_run(with_criteria("master-done"), [done, lost], None, 2, NOON).run
    assert run.status is RunStatus.DONE


def test_with_all_done_the_first_node_waits_for_the_others_and_fails_with_them() -> None:
    master, worker = first_jobs(2)
    done = ended(master, JobReason.DONE_BY_RUNNER)
    alive = replace(worker, status=JobStatus.RUNNING, started_at=NOON)
    for run in (with_criteria("all-done"), a_run(RunStatus.RUNNING)):
        assert advance_run(run, [done, alive], None, 2, NOON).run.status is RunStatus.RUNNING
        failed = ended(worker, JobReason.CONTAINER_EXITED_WITH_ERROR)
        after = advance_run(run, [done, failed], None, 2, NOON).run
        assert (after.status, after.reason) == (RunStatus.FAILED, RunReason.JOB_FAILED)


def test_with_master_done_a_worker_that_fails_first_fails_the_run() -> None:
    master, worker = first_jobs(2)
    alive = replace(master, status=JobStatus.RUNNING, started_at=NOON)
    failed = ended(worker, JobReason.CONTAINER_EXITED_WITH_ERROR)
    run = advance_run(with_criteria("master-done"), [alive, failed], None, 2, NOON).run
    assert run.reason is RunReason.JOB_FAILED
