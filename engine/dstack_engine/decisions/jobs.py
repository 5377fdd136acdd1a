"""How a job moves on: from what is written and what was seen, to what is written next.

Pure. The job loop looks at the host, calls `advance_job`, saves the result and acts on it.
Placement, which needs to see all jobs at once, is `decisions.placement`; the loop hands its
answer in as `JobSighting.placed`.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dstack_engine.decisions import quantities
from dstack_engine.records.jobs import (
    Job,
    JobReason,
    JobStatus,
    Reservation,
    TriedOffer,
)
from dstack_engine.records.offers import Offer
from dstack_engine.records.routes import Route
from dstack_engine.records.sightings import Container, Sighting

#: How long past its max_duration a job may run before the loop ends it itself, where the host
#: (a supervisor) should have done so already.
DURATION_SLACK = timedelta(seconds=1)

#: How long a machine may not answer before its job is given up: dstack's figure, and the one for
#: jobs that are tried again elsewhere.
PATIENCE = timedelta(minutes=20)
RETRIED_PATIENCE = timedelta(minutes=2)


@dataclass(frozen=True)
class Placed:
    """Placement's yes: where the job runs and what it holds there."""

    offer: Offer
    instance: str
    reservation: Reservation
    routes: tuple[Route, ...] = ()
    image: str | None = None


@dataclass(frozen=True)
class Waits:
    """Placement's not yet, with the reason that is shown."""

    why: str


@dataclass(frozen=True)
class NoPlace:
    """Placement's no: nothing left to try."""

    why: str
    reason: JobReason = JobReason.NO_CAPACITY


@dataclass(frozen=True)
class Unfit:
    """Preparation failed as it need not with the next offer: no image, no interpreter, no port."""

    why: str
    reason: JobReason


@dataclass(frozen=True)
class Silence:
    """A job's machine does not answer: a lost link is no failed job, for a while."""

    machine: str
    why: str
    #: Since this engine saw it first, by its own measure: a computer that slept ends no job.
    lasted: timedelta
    patience: timedelta = PATIENCE

    @property
    def over(self) -> bool:
        """Tell whether it has lasted too long."""
        return self.lasted >= self.patience

    @property
    def sentence(self) -> str:
        """Return what a person reads; the time in steps, so that it is not told every second."""
        if self.lasted < timedelta(seconds=10):
            return f"{self.machine} does not answer: {self.why}"
        seconds = int(self.lasted.total_seconds())
        return self._says(seconds // 10 * 10 if seconds < 60 else seconds)

    @property
    def verdict(self) -> str:
        """Return what a person reads once it has lasted too long."""
        return self._says(int(self.lasted.total_seconds()))

    def _says(self, seconds: int) -> str:
        time = f"{seconds} s" if seconds < 60 else f"{seconds // 60} min"
        return f"{self.machine} has not answered for {time}: {self.why}"


@dataclass(frozen=True)
class JobSighting:
    """All that a look at a job showed; what was not looked at stays None or False."""

    #: The host's look; None while the host does not answer.
    container: Sighting | None = None
    placed: Placed | Waits | NoPlace | None = None
    instance_ready: bool = False
    #: Why preparing failed, once it has.
    unfit: Unfit | None = None
    #: Everything that one of several nodes needs is there; it starts when all are.
    prepared: bool = False
    #: All output is stored (the container has ended, too).
    drained: bool = False
    #: The container was told to end, and nothing of it runs.
    stopped: bool = False
    #: Why its run wants it to end, if it does.
    wish: JobReason | None = None
    max_duration: timedelta | None = None
    #: How long it has run, measured by the loop: no clock that is set lengthens or shortens it.
    ran: timedelta = timedelta(0)
    #: Its machine does not answer; nothing else of it was looked at.
    silence: Silence | None = None
    #: Why its machine is ours no more, where it is not.
    lost: str | None = None
    #: Why it cannot begin yet, though it has a place.
    waiting: str | None = None


def advance_job(job: Job, seen: JobSighting, now: datetime) -> Job:
    """Return the job as it should be written now; the same job when nothing has changed."""
    match job.status:
        case JobStatus.SUBMITTED if seen.wish is not None:
            return _finish(_stop(job, seen.wish, now), now)
        case JobStatus.SUBMITTED:
            return _place(job, seen.placed, now)
        case JobStatus.PROVISIONING | JobStatus.PULLING | JobStatus.RUNNING if seen.wish:
            return _stop(job, seen.wish, now)
        case JobStatus.PROVISIONING | JobStatus.PULLING | JobStatus.RUNNING if seen.lost:
            return _stop(job, JobReason.INTERRUPTED, now, seen.lost)
        case JobStatus.PROVISIONING | JobStatus.PULLING | JobStatus.RUNNING if seen.silence:
            return _endure(job, seen.silence, now)
        case JobStatus.PROVISIONING if seen.instance_ready:
            return replace(job, status=JobStatus.PULLING, since=now, waiting=None)
        case JobStatus.PROVISIONING:
            return _wait(job, seen.waiting)
        case JobStatus.PULLING:
            return _prepare(_wait(job, None), seen, now)
        case JobStatus.RUNNING:
            return _watch(_wait(job, None), seen, now)
        case JobStatus.TERMINATING if seen.stopped and seen.drained:
            return _finish(job, now)
        case JobStatus.TERMINATING if seen.lost or _is_given_up(job, seen.silence):
            return _finish(job, now)
        case _:
            return job


def _wait(job: Job, why: str | None) -> Job:
    return job if job.waiting == why else replace(job, waiting=why)


def _endure(job: Job, silence: Silence, now: datetime) -> Job:
    if silence.over:
        return _stop(job, JobReason.INTERRUPTED, now, silence.verdict)
    return _wait(job, silence.sentence)


def _is_given_up(job: Job, silence: Silence | None) -> bool:
    """Tell whether nobody waits for the machine to say that the job has ended.

    What runs on there is ended when the machine is back.
    """
    if silence is None:
        return False
    at_once = job.reason in (JobReason.INTERRUPTED, JobReason.ABORTED_BY_USER)
    return at_once or silence.lasted >= RETRIED_PATIENCE


def _place(job: Job, placed: Placed | Waits | NoPlace | None, now: datetime) -> Job:
    match placed:
        case Placed():
            return replace(
                job,
                status=JobStatus.PROVISIONING,
                since=now,
                waiting=None,
                reason=None,
                detail=None,
                offer=placed.offer,
                instance=placed.instance,
                reservation=placed.reservation,
                routes=placed.routes,
                image=placed.image,
                placed_at=now,
            )
        case Waits():
            return _wait(job, placed.why)
        case NoPlace():
            return _finish(_stop(job, job.reason or placed.reason, now, placed.why), now)
        case None:
            return job


def _prepare(job: Job, seen: JobSighting, now: datetime) -> Job:
    if seen.container and seen.container.container in (Container.UP, Container.EXITED):
        started = seen.container.started_at or now
        return replace(job, status=JobStatus.RUNNING, since=now, started_at=started, waiting=None)
    if seen.unfit is None:
        prepared = job.prepared or seen.prepared
        return replace(job, prepared=prepared, waiting=seen.waiting)
    if job.prepared:  # others may have started already, and know this node by its address
        return _stop(job, seen.unfit.reason, now, seen.unfit.why)
    assert job.offer is not None, f"job {job.id} is pulling without an offer"
    return replace(
        job,
        status=JobStatus.SUBMITTED,
        since=now,
        offer=None,
        instance=None,
        reservation=None,
        routes=(),
        image=None,
        placed_at=None,
        waiting=None,
        tried=(*job.tried, TriedOffer(job.offer.id, seen.unfit.why)),
        reason=seen.unfit.reason,  # stands if no other offer is left
        detail=seen.unfit.why,
    )


def _watch(job: Job, seen: JobSighting, now: datetime) -> Job:
    sighting = seen.container
    if sighting is not None and sighting.container in (Container.ABSENT, Container.CREATED):
        return _stop(job, JobReason.INTERRUPTED, now, "its container is gone")
    if sighting is not None and sighting.container is Container.EXITED:
        return _exit(job, sighting, now) if seen.drained else job
    if seen.max_duration is not None and seen.ran >= seen.max_duration + DURATION_SLACK:
        return _stop(job, JobReason.MAX_DURATION_EXCEEDED, now, f"after {seen.max_duration}")
    return job


def _exit(job: Job, seen: Sighting, now: datetime) -> Job:
    job = replace(
        job,
        exit_code=seen.exit_code,
        signal=seen.signal,
        started_at=seen.started_at or job.started_at,
    )
    if seen.timed_out:
        return _stop(job, JobReason.MAX_DURATION_EXCEEDED, now)
    if seen.out_of_memory:
        limit = job.reservation.memory_limit_gb if job.reservation else None
        detail = f"its limit is {quantities.size(limit)}" if limit else None
        return _stop(job, JobReason.OUT_OF_MEMORY, now, detail)
    if seen.interrupted:
        return _stop(job, JobReason.INTERRUPTED, now, seen.error)
    if seen.signal:
        return _stop(job, JobReason.KILLED_BY_SIGNAL, now, _signal_name(seen.signal))
    if seen.exit_code == 0:
        return _stop(job, JobReason.DONE_BY_RUNNER, now)
    if seen.error:
        return _stop(job, JobReason.CREATING_CONTAINER_ERROR, now, seen.error)
    return _stop(job, JobReason.CONTAINER_EXITED_WITH_ERROR, now, f"exit code {seen.exit_code}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _stop(job: Job, reason: JobReason, now: datetime, detail: str | None = None) -> Job:
    return replace(
        job,
        status=JobStatus.TERMINATING,
        reason=reason,
        detail=detail,
        waiting=None,
        since=now,
    )


def _finish(job: Job, now: datetime) -> Job:
    assert job.reason is not None, f"job {job.id} is terminating without a reason"
    return replace(job, status=job.reason.final_status, since=now, finished_at=now)
