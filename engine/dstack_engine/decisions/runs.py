"""How a run moves on: from its record and its jobs, to the record and the new jobs to write.

Pure. The run loop reads both, calls `advance_run` and saves what comes back. Retry is by run, as
dstack's is by replica: when one job fails, its siblings are ended and all are tried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dstack_engine.records.jobs import Job, JobId, JobReason, JobStatus
from dstack_engine.records.runs import Run, RunReason, RunStatus

#: Waits before the second, third, … attempt. dstack waits 15 s, 30 s, 1, 2, 5, 10 minutes; a
#: computer that stands ready may be tried sooner.
RETRY_WAITS = tuple(timedelta(seconds=s) for s in (1, 5, 15, 30, 60, 120, 300, 600))

#: dstack's words for what may be retried, and the reasons that are meant by each.
RETRY_EVENTS = {
    "no-capacity": frozenset({JobReason.NO_CAPACITY}),
    "interruption": frozenset({JobReason.INTERRUPTED}),
    "error": frozenset(
        {
            JobReason.CONTAINER_EXITED_WITH_ERROR,
            JobReason.KILLED_BY_SIGNAL,
            JobReason.OUT_OF_MEMORY,
            JobReason.CREATING_CONTAINER_ERROR,
            JobReason.PORTS_BINDING_FAILED,
            JobReason.EXECUTOR_ERROR,
        }
    ),
}


@dataclass(frozen=True)
class RetryRule:
    """What a run retries, and for how long; `events` are dstack's words."""

    events: frozenset[str]
    duration: timedelta
    #: How much of the duration is over, measured by the loop since `window_start`.
    spent: timedelta = timedelta(0)

    def covers(self, reason: JobReason) -> bool:
        """Tell whether a job that ended for *reason* is to be tried again."""
        return any(reason in RETRY_EVENTS[event] for event in self.events)


@dataclass(frozen=True)
class Advance:
    """What to write: the run, and jobs that do not exist yet."""

    run: Run
    new_jobs: tuple[Job, ...] = ()


def advance_run(
    run: Run, jobs: Sequence[Job], retry: RetryRule | None, nodes: int, now: datetime
) -> Advance:
    """Return the run as it should be written now, with the jobs it lacks."""
    latest = _latest_attempt(jobs)
    if run.finished:
        return Advance(run)
    if run.status is RunStatus.TERMINATING:
        return Advance(_end(run, latest, now))
    if run.stop_requested_at is not None:
        reason = RunReason.ABORTED_BY_USER if run.abort else RunReason.STOPPED_BY_USER
        return Advance(_end(_terminate(run, reason, now), latest, now))
    if not jobs or (run.status is RunStatus.PENDING and _due(run, now) and _all_ended(latest)):
        return _attempt(run, jobs, nodes, now)
    if run.status is RunStatus.PENDING:
        return Advance(run)
    return Advance(_follow(run, latest, retry, now))


def wish_for(run: Run) -> JobReason | None:
    """Return why the run wants its jobs to end, or None while it does not."""
    if run.stop_requested_at is not None:
        return JobReason.ABORTED_BY_USER if run.abort else JobReason.TERMINATED_BY_USER
    if run.status in (RunStatus.TERMINATING, RunStatus.PENDING):
        return JobReason.TERMINATED_BY_SERVER
    return None


def window_start(run: Run, jobs: Sequence[Job]) -> datetime:
    """Return since when the run has been without success: retry lasts `duration` from there.

    That is the end of the last attempt that ran, so that each new failure opens a new window, or
    the submission where none has (dstack's `should_retry_job`).
    """
    ran = (job.finished_at for job in jobs if job.started_at is not None)
    return max((at for at in ran if at is not None), default=run.submitted_at)


def _latest_attempt(jobs: Sequence[Job]) -> list[Job]:
    newest = max((job.attempt for job in jobs), default=0)
    return [job for job in jobs if job.attempt == newest]


def _due(run: Run, now: datetime) -> bool:
    # Before its own beginning: the clock was set back, and nobody waits until it is there again.
    return run.retry_at is None or now >= run.retry_at or now < run.since


def _all_ended(jobs: Sequence[Job]) -> bool:
    # Of several nodes one has failed; the others end first, so that none of them runs double.
    return all(job.finished for job in jobs)


def _attempt(run: Run, jobs: Sequence[Job], nodes: int, now: datetime) -> Advance:
    attempt = max((job.attempt for job in jobs), default=0) + 1
    new_jobs = tuple(
        Job(
            id=JobId(f"{run.name}-{node}-0/{attempt}"),
            run_id=run.id,
            run_name=run.name,
            node=node,
            replica=0,
            attempt=attempt,
            status=JobStatus.SUBMITTED,
            since=now,
            submitted_at=now,
        )
        for node in range(nodes)
    )
    since = run.since if run.status is RunStatus.SUBMITTED else now
    return Advance(replace(run, status=RunStatus.SUBMITTED, since=since, retry_at=None), new_jobs)


def _follow(run: Run, latest: Sequence[Job], retry: RetryRule | None, now: datetime) -> Run:
    failed = [job for job in latest if _has_failed(job)]
    statuses = {job.status for job in latest}
    if statuses == {JobStatus.DONE} or _is_decided(run, latest):
        return _end(_terminate(run, RunReason.ALL_JOBS_DONE, now), latest, now)
    if failed:
        return _fail(run, latest, failed[0], retry, now)
    if JobStatus.RUNNING in statuses:
        started = min(job.started_at for job in latest if job.started_at is not None)
        return _move(run, RunStatus.RUNNING, now, started_at=run.started_at or started)
    if statuses & {JobStatus.PROVISIONING, JobStatus.PULLING}:
        return _move(run, RunStatus.PROVISIONING, now, started_at=run.started_at)
    if statuses == {JobStatus.SUBMITTED}:
        return _move(run, RunStatus.SUBMITTED, now, started_at=run.started_at)
    return run


def _is_decided(run: Run, latest: Sequence[Job]) -> bool:
    """Tell whether the run is over with its first node, and that is done."""
    masters = [job for job in latest if job.node == 0]
    by_master = run.configuration.stop_criteria == "master-done"
    return by_master and any(job.status is JobStatus.DONE for job in masters)


def _has_failed(job: Job) -> bool:
    return job.finished and job.status is not JobStatus.DONE


def _fail(
    run: Run,
    latest: Sequence[Job],
    failed: Job,
    retry: RetryRule | None,
    now: datetime,
) -> Run:
    assert failed.reason is not None, f"job {failed.id} ended without a reason"
    if failed.reason is JobReason.MAX_DURATION_EXCEEDED:
        return _end(_terminate(run, RunReason.MAX_DURATION_EXCEEDED, now), latest, now)
    if retry is None or not retry.covers(failed.reason):
        return _end(_terminate(run, RunReason.JOB_FAILED, now), latest, now)
    if retry.spent > retry.duration:
        return _end(_terminate(run, RunReason.RETRY_LIMIT_EXCEEDED, now), latest, now)
    wait = RETRY_WAITS[min(failed.attempt, len(RETRY_WAITS)) - 1]
    return replace(run, status=RunStatus.PENDING, since=now, retry_at=now + wait)


def _move(run: Run, status: RunStatus, now: datetime, *, started_at: datetime | None) -> Run:
    if run.status is status:
        return run
    return replace(run, status=status, since=now, started_at=started_at)


def _terminate(run: Run, reason: RunReason, now: datetime) -> Run:
    return replace(run, status=RunStatus.TERMINATING, reason=reason, since=now, retry_at=None)


def _end(run: Run, latest: Sequence[Job], now: datetime) -> Run:
    if not _all_ended(latest):
        return run
    assert run.reason is not None, f"run {run.name} is terminating without a reason"
    starts = [job.started_at for job in latest if job.started_at is not None]
    started = run.started_at or min(starts, default=None)
    return replace(
        run, status=run.reason.final_status, since=now, finished_at=now, started_at=started
    )
