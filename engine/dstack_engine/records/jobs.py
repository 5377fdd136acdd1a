"""A job: one container's worth of a run, one attempt of it. Written by the job loop alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NewType

from dstack_engine.enums import StrEnum
from dstack_engine.records.offers import Offer, OfferId
from dstack_engine.records.routes import Route

#: ``<run>-<node>-<replica>/<attempt>``, e.g. ``wet-fox-1-0-0/1``; unique in one engine's life.
JobId = NewType("JobId", str)


class JobStatus(StrEnum):
    """Where a job stands; each member says what it means and who moves it on."""

    SUBMITTED = "submitted"  #: waits for a place; the job loop places it, first in first out
    PROVISIONING = "provisioning"  #: has a place; moves on when its instance is ready
    PULLING = "pulling"  #: the host prepares image, files and container; moves on when it is up
    RUNNING = "running"  #: its container runs; moves on at its exit or at a wish to stop
    TERMINATING = "terminating"  #: being stopped and drained; its reason knows the final status
    TERMINATED = "terminated"  #: final: stopped on somebody's wish or by a limit
    ABORTED = "aborted"  #: final: stopped at once by its user
    FAILED = "failed"  #: final: ended otherwise than asked
    DONE = "done"  #: final: ended by itself, exit code 0

    @property
    def finished(self) -> bool:
        """Tell whether nothing moves this job any more."""
        return self in FINISHED


FINISHED = frozenset({JobStatus.TERMINATED, JobStatus.ABORTED, JobStatus.FAILED, JobStatus.DONE})


class JobReason(StrEnum):
    """Why a job is ending; decides its final status. dstack's words where dstack has one."""

    DONE_BY_RUNNER = "done_by_runner"
    CONTAINER_EXITED_WITH_ERROR = "container_exited_with_error"
    KILLED_BY_SIGNAL = "killed_by_signal"
    OUT_OF_MEMORY = "out_of_memory"
    NO_CAPACITY = "failed_to_start_due_to_no_capacity"
    INTERRUPTED = "interrupted_by_no_capacity"
    CREATING_CONTAINER_ERROR = "creating_container_error"
    IMAGE_UNAVAILABLE = "image_unavailable"
    PORTS_BINDING_FAILED = "ports_binding_failed"
    EXECUTOR_ERROR = "executor_error"
    MAX_DURATION_EXCEEDED = "max_duration_exceeded"
    TERMINATED_BY_USER = "terminated_by_user"
    ABORTED_BY_USER = "aborted_by_user"
    TERMINATED_BY_SERVER = "terminated_by_server"
    SCALED_DOWN = "scaled_down"
    REPLACED = "replaced"

    @property
    def final_status(self) -> JobStatus:
        """Return the status in which a job with this reason ends."""
        if self is JobReason.DONE_BY_RUNNER:
            return JobStatus.DONE
        if self is JobReason.ABORTED_BY_USER:
            return JobStatus.ABORTED
        if self in _TERMINATED:
            return JobStatus.TERMINATED
        return JobStatus.FAILED

    @property
    def sentence(self) -> str:
        """Return what a person reads."""
        return _SENTENCES[self]


_TERMINATED = frozenset(
    {
        JobReason.TERMINATED_BY_USER,
        JobReason.TERMINATED_BY_SERVER,
        JobReason.SCALED_DOWN,
        JobReason.REPLACED,
        JobReason.MAX_DURATION_EXCEEDED,
    }
)

_SENTENCES = {
    JobReason.DONE_BY_RUNNER: "ended by itself with exit code 0",
    JobReason.CONTAINER_EXITED_WITH_ERROR: "ended with an error",
    JobReason.KILLED_BY_SIGNAL: "was killed by a signal",
    JobReason.OUT_OF_MEMORY: "ran out of memory and was killed",
    JobReason.NO_CAPACITY: "found no place to run",
    JobReason.INTERRUPTED: "was interrupted: its machine or Docker Engine went away",
    JobReason.CREATING_CONTAINER_ERROR: "its container could not be started",
    JobReason.IMAGE_UNAVAILABLE: "its image is not here and could not be pulled",
    JobReason.PORTS_BINDING_FAILED: "one of its ports is taken on this computer",
    JobReason.EXECUTOR_ERROR: "the engine could not run it",
    JobReason.MAX_DURATION_EXCEEDED: "reached its max_duration",
    JobReason.TERMINATED_BY_USER: "was stopped by its user",
    JobReason.ABORTED_BY_USER: "was aborted by its user",
    JobReason.TERMINATED_BY_SERVER: "was stopped by the engine",
    JobReason.SCALED_DOWN: "was not needed any more",
    JobReason.REPLACED: "was replaced by a replica of the newer configuration",
}


@dataclass(frozen=True)
class Reservation:
    """What a job holds of its instance until it ends; GPUs by UUID, sizes in GB."""

    cpus: float = 0.0
    memory_gb: float = 0.0
    gpus: tuple[str, ...] = ()
    #: Ceilings that the host really sets; None leaves the job unlimited.
    cpu_limit: float | None = None
    memory_limit_gb: float | None = None
    shm_gb: float | None = None
    #: How many of the equal parts into which its machine is split; 0 where that is not split.
    blocks: int = 0


@dataclass(frozen=True)
class TriedOffer:
    """An offer that this job tried and could not have, with the sentence that says why."""

    offer: OfferId
    why: str


@dataclass(frozen=True)
class Job:
    """One attempt to run one node of one replica."""

    id: JobId
    run_id: str
    run_name: str
    node: int
    replica: int
    attempt: int
    status: JobStatus
    #: When the status began; time-outs are computed from it.
    since: datetime
    submitted_at: datetime
    reason: JobReason | None = None
    #: The reason in its facts, e.g. ``exit code 3``.
    detail: str | None = None
    #: Why it waits, while it does.
    waiting: str | None = None
    offer: Offer | None = None
    instance: str | None = None
    reservation: Reservation | None = None
    routes: tuple[Route, ...] = ()
    tried: tuple[TriedOffer, ...] = ()
    image: str | None = None
    #: One of several nodes: all it needs is there, and it starts when this is so of every node.
    prepared: bool = False
    exit_code: int | None = None
    signal: int | None = None
    placed_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: Which configuration of a service it was started with.
    deployment: int = 1

    @property
    def container(self) -> str:
        """Return the name of this attempt's container: the same after every restart.

        Part of the run's id is in it, because a name may be used again when its run has ended.
        """
        return f"{self.id.replace('/', '-')}-{self.run_id[:6]}"

    @property
    def finished(self) -> bool:
        """Tell whether the job has reached its end."""
        return self.status.finished
