"""A run: one submission of a configuration. Written by the run loop, and by submit and stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NewType

from dstack_engine.enums import StrEnum
from dstack_engine.records.jobs import Job, JobReason, JobStatus
from dstack_engine.records.offers import Offer
from dstack_engine.records.services import ServiceState
from dstack_engine.spec.configurations import Runnable

RunId = NewType("RunId", str)  #: a random id; the name may be used again after `delete`


class RunStatus(StrEnum):
    """Where a run stands; each member says what it means and who moves it on."""

    PENDING = "pending"  #: waits to try again, or for a request; the run loop goes on with it
    SUBMITTED = "submitted"  #: saved; its jobs wait for a place
    PROVISIONING = "provisioning"  #: a job has a place and is being prepared there
    RUNNING = "running"  #: a job runs
    TERMINATING = "terminating"  #: its jobs are being ended; the reason knows the final status
    TERMINATED = "terminated"  #: final: stopped by its user or by a limit
    FAILED = "failed"  #: final: a job failed, and no retry was left
    DONE = "done"  #: final: every job is done

    @property
    def finished(self) -> bool:
        """Tell whether nothing moves this run any more."""
        return self in FINISHED


FINISHED = frozenset({RunStatus.TERMINATED, RunStatus.FAILED, RunStatus.DONE})


class RunReason(StrEnum):
    """Why a run is ending; decides its final status. dstack's words where dstack has one."""

    ALL_JOBS_DONE = "all_jobs_done"
    JOB_FAILED = "job_failed"
    RETRY_LIMIT_EXCEEDED = "retry_limit_exceeded"
    STOPPED_BY_USER = "stopped_by_user"
    ABORTED_BY_USER = "aborted_by_user"
    MAX_DURATION_EXCEEDED = "max_duration_exceeded"
    SERVER_ERROR = "server_error"

    @property
    def final_status(self) -> RunStatus:
        """Return the status in which a run with this reason ends."""
        match self:
            case RunReason.ALL_JOBS_DONE:
                return RunStatus.DONE
            case (
                RunReason.STOPPED_BY_USER
                | RunReason.ABORTED_BY_USER
                | RunReason.MAX_DURATION_EXCEEDED
            ):
                return RunStatus.TERMINATED
            case _:
                return RunStatus.FAILED


@dataclass(frozen=True)
class Run:
    """One submission of a configuration."""

    id: RunId
    name: str
    configuration: Runnable
    status: RunStatus
    since: datetime
    submitted_at: datetime
    #: The offers that the user agreed to, in the order to try; empty means any that fits.
    offers: tuple[Offer, ...] = ()
    reason: RunReason | None = None
    #: The wish to stop, saved before anything is stopped.
    stop_requested_at: datetime | None = None
    abort: bool = False
    #: Digest of the project's files as they were when the run was submitted.
    files: str | None = None
    #: The folder they came from, to show.
    project: str | None = None
    #: Values of `env`, the kernel's included; never shown, logged or sent out.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: When the next attempt is due, while the run is pending.
    retry_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: What jobs have cost that are forgotten by now, in USD.
    past_cost: float = 0.0
    #: How its replicas stand, where it is a service.
    service: ServiceState | None = None

    @property
    def finished(self) -> bool:
        """Tell whether the run has reached its end."""
        return self.status.finished

    def without_secrets(self) -> Run:
        """Return the run as it may leave the engine: values of variables and passwords left out."""
        configuration = self.configuration
        update: dict[str, object] = {}
        if configuration.env:
            update["env"] = dict.fromkeys(configuration.env)
        if configuration.registry_auth is not None:
            hidden = configuration.registry_auth.model_copy(update={"password": "***"})
            update["registry_auth"] = hidden
        shown = configuration.model_copy(update=update) if update else configuration
        return replace(self, environment={}, configuration=shown)


@dataclass(frozen=True)
class RunView:
    """A run with its jobs, as it is shown: without its secrets."""

    run: Run
    #: Every attempt, oldest first.
    jobs: tuple[Job, ...] = ()

    @property
    def name(self) -> str:
        """Return the run's name."""
        return self.run.name

    @property
    def status(self) -> RunStatus:
        """Return the run's status."""
        return self.run.status

    @property
    def finished(self) -> bool:
        """Tell whether the run has reached its end."""
        return self.run.finished

    @property
    def job(self) -> Job | None:
        """Return the newest attempt of the first node, the one that a card shows.

        Of a service it is that of its first replica that runs, or else the newest of all.
        """
        firsts = [job for job in self.jobs if job.node == 0]
        if self.run.service is None:
            return firsts[-1] if firsts else None
        running = [job for job in firsts if job.status is JobStatus.RUNNING]
        living = running or [job for job in firsts if not job.finished]
        if living:
            return min(living, key=lambda job: (job.replica, job.attempt))
        return firsts[-1] if firsts else None

    def newest(self, replica: int, node: int = 0) -> Job | None:
        """Return the newest attempt of that node of that replica, or None."""
        found = [job for job in self.jobs if (job.replica, job.node) == (replica, node)]
        return found[-1] if found else None

    @property
    def telling(self) -> Job | None:
        """Return the job that says why the run waits or ended.

        Of several nodes it is the one that failed, since the others were ended for its sake; else
        it is `job`.
        """
        first = self.job
        if first is None or self.run.service is not None:
            return first
        nodes = [job for job in self.jobs if job.attempt == first.attempt and job.reason]
        failed = [job for job in nodes if job.reason is not JobReason.TERMINATED_BY_SERVER]
        failed = [job for job in failed if job.status is not JobStatus.DONE]
        return min(failed, key=lambda job: job.since) if failed else first

    @property
    def price(self) -> float:
        """Return what the run costs now, in USD per hour, over its jobs that hold a place."""
        return sum(job.offer.price for job in self.jobs if job.offer and not job.finished)

    def cost(self, now: datetime) -> float:
        """Return what the run has cost until *now*, in USD: each job from placement to its end."""
        return self.run.past_cost + sum(cost_of(job, now) for job in self.jobs)


def cost_of(job: Job, now: datetime) -> float:
    """Return what *job* has cost until *now*, in USD, from its placement to its end."""
    if job.offer is None or job.placed_at is None:
        return 0.0
    until = job.finished_at or now
    return job.offer.price * max((until - job.placed_at).total_seconds(), 0.0) / 3600
