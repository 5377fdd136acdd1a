"""The job loop: places a job, has its host prepare, start, attend and stop its container.

The long acts (`prepare`, `attend`, `stop`) are activities with a thread of their own; `look` reads
what they found out. All of them may be repeated, so a job that a crash left anywhere goes on.
They are known by the container's name: the job's own id may be used again by a later run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from operator import attrgetter
from pathlib import Path

from dstack_engine.decisions import instances
from dstack_engine.decisions import jobs as decisions
from dstack_engine.decisions.clusters import key_of, why_not_yet
from dstack_engine.decisions.jobs import JobSighting, Placed, Unfit
from dstack_engine.decisions.ownership import nodes_of
from dstack_engine.decisions.scripts import Node
from dstack_engine.errors import (
    ContainerFailed,
    DiskFull,
    DstackError,
    HostUnreachable,
    ImageUnavailable,
    PortTaken,
    PythonUnavailable,
)
from dstack_engine.hosts.base import Host, KeepsFiles
from dstack_engine.reconcilers.containers import (
    container_spec,
    keeps_duration,
    max_duration,
    nodes_in,
    stop_grace,
)
from dstack_engine.reconcilers.loop import Stopwatch, pause
from dstack_engine.reconcilers.places import Places
from dstack_engine.reconcilers.runs import wish_for
from dstack_engine.reconcilers.silences import Silences
from dstack_engine.reconcilers.world import World
from dstack_engine.records.events import Progress
from dstack_engine.records.jobs import Job, JobReason, JobStatus
from dstack_engine.records.runs import Run
from dstack_engine.records.sightings import Container

logger = logging.getLogger(__name__)

#: What each failure of a host means for the job, if no other offer is left.
_UNFIT_REASONS: dict[type[DstackError], JobReason] = {
    ImageUnavailable: JobReason.IMAGE_UNAVAILABLE,
    PythonUnavailable: JobReason.EXECUTOR_ERROR,
    PortTaken: JobReason.PORTS_BINDING_FAILED,
    DiskFull: JobReason.CREATING_CONTAINER_ERROR,
    ContainerFailed: JobReason.CREATING_CONTAINER_ERROR,
}

#: Statuses of a job whose container is to run.
_WANTED = frozenset({JobStatus.PULLING, JobStatus.RUNNING})

#: How long to wait before a host that does not answer is asked again.
UNREACHABLE_WAIT = timedelta(seconds=1)

#: How often it is told for how long a machine has not answered.
SILENCE_TICK = timedelta(seconds=10)

_SOON = timedelta(milliseconds=10)


class JobReconciler:
    """Looks at one job, decides, saves, acts."""

    def __init__(self, world: World) -> None:
        """Work in *world*; its `tick` and `keys` are given to a `Loop`."""
        self._world = world
        # Placement sees all jobs at once and must not be overtaken by itself.
        self._placing = threading.Lock()
        self._stopwatch = Stopwatch()
        self._places = Places(world)
        self._silences = Silences(world)

    def keys(self) -> list[str]:
        """Return the ids of all jobs that are not at their end, the first submitted first."""
        return [kept.record.id for kept in self._world.store.jobs(finished=False)]

    def tick(self, job_id: str) -> timedelta | None:
        """Move one job on; return when to look again."""
        kept = self._world.store.job(job_id)
        if kept is None:
            return None
        if kept.record.finished:
            self._world.activities.forget(kept.record.container)
            return None
        if kept.record.status is JobStatus.SUBMITTED:
            with self._placing:
                return self._beat(job_id)
        return self._beat(job_id)

    def _beat(self, job_id: str) -> timedelta | None:
        world = self._world
        kept = world.store.job(job_id)
        found = world.store.run_by_id(kept.record.run_id) if kept is not None else None
        if kept is None or found is None:
            return None
        job, run = kept.record, found.record
        seen = self._look(job, run)
        world.checkpoint(f"job {job.status} looked")
        now = world.clock()
        after = decisions.advance_job(job, seen, now)
        world.checkpoint(f"job {job.status} decided")
        with world.store.transaction(now) as transaction:
            if isinstance(seen.placed, Placed) and not self._places.claim(seen.placed, transaction):
                return timedelta(0)
            transaction.save(kept, after)
        world.checkpoint(f"job {after.status} saved")
        self._act(job, after, run, seen)
        world.checkpoint(f"job {after.status} acted")
        return self._next_look(job, after, seen)

    # --- look --------------------------------------------------------------------------------

    def _look(self, job: Job, run: Run) -> JobSighting:
        wish = wish_for(run, job)
        away = self._silences.look(job, run)
        if away is not None:
            return replace(away, wish=wish)
        match job.status:
            case JobStatus.SUBMITTED:
                placed = None if wish is not None else self._places.find(job, run)
                return JobSighting(wish=wish, placed=placed)
            case JobStatus.PROVISIONING:
                return self._look_at_instance(job, wish)
            case JobStatus.PULLING:
                return self._look_at_preparation(job, run, wish)
            case JobStatus.RUNNING:
                return self._look_at_container(job, run, wish)
            case _:
                return self._look_at_end(job)

    def _look_at_preparation(self, job: Job, run: Run, wish: JobReason | None) -> JobSighting:
        fetching = nodes_of(run.configuration) > 1 and not job.prepared
        verb = "fetch" if fetching else "prepare"
        outcome = self._world.activities.outcome(verb, job.container)
        if isinstance(outcome, HostUnreachable):
            self._world.activities.forget(job.container, verb)
            raise outcome
        if isinstance(outcome, Exception):
            return JobSighting(wish=wish, unfit=_unfit(job, outcome))
        if outcome is None:
            return JobSighting(wish=wish, waiting=self._gathers(job, run))
        if fetching:
            return JobSighting(wish=wish, prepared=True)
        return JobSighting(wish=wish, container=self._host(job).look(job.container))

    def _gathers(self, job: Job, run: Run) -> str | None:
        """Return what a node that is prepared waits for before it starts; None for nothing."""
        nodes = nodes_of(run.configuration)
        if nodes == 1 or not job.prepared:
            return None
        order = run.configuration.startup_order or "any"
        return why_not_yet(job, self._siblings(job), nodes, order)

    def _siblings(self, job: Job) -> list[Job]:
        """Return all nodes of the job's attempt, the job among them, in their order."""
        jobs = (kept.record for kept in self._world.store.jobs(run_id=job.run_id))
        return sorted((one for one in jobs if key_of(one) == key_of(job)), key=attrgetter("node"))

    def _look_at_container(self, job: Job, run: Run, wish: JobReason | None) -> JobSighting:
        seen = JobSighting(wish=wish, max_duration=max_duration(run), ran=self._ran(job, run))
        activities = self._world.activities
        outcome = activities.outcome("attend", job.container)
        if outcome is None:
            return seen
        if isinstance(outcome, Exception):
            activities.forget(job.container, "attend")  # it is done again
        if isinstance(outcome, (HostUnreachable, DiskFull)):
            logger.warning("job %s: its output cannot be kept now: %s", job.id, outcome)
            return seen
        container = self._host(job).look(job.container)
        if isinstance(outcome, Exception):
            logger.error("job %s: its output could not be kept.", job.id, exc_info=outcome)
            if container.container is Container.UP:
                return seen
        return replace(seen, container=container, drained=True)

    def _ran(self, job: Job, run: Run) -> timedelta:
        """Return how long the job has run, as far as its max_duration is the loop's affair.

        A host that holds the limit itself knows better how long its job ran before this engine
        lived: the loop is its stand-in, and counts from its own first look.
        """
        since = job.started_at or job.since
        now = since if keeps_duration(run, job) else self._world.clock()
        return self._stopwatch.elapsed(job.container, since, now)

    def _look_at_end(self, job: Job) -> JobSighting:
        activities = self._world.activities
        stopped, drained = (activities.outcome(verb, job.container) for verb in ("stop", "attend"))
        for verb, outcome in (("stop", stopped), ("attend", drained)):
            if isinstance(outcome, HostUnreachable):
                activities.forget(job.container, verb)
        return JobSighting(stopped=_ended(stopped), drained=_ended(drained))

    def _look_at_instance(self, job: Job, wish: JobReason | None) -> JobSighting:
        found = self._world.store.instance(job.instance or "")
        if found is None:
            return JobSighting(wish=wish)
        machine = found.record
        waiting = instances.trouble_of(machine) if machine.ssh is not None else None
        return JobSighting(wish=wish, instance_ready=instances.is_ready(machine), waiting=waiting)

    # --- act ---------------------------------------------------------------------------------

    def _act(self, before: Job, job: Job, run: Run, seen: JobSighting) -> None:
        if job.status is not before.status:
            logger.info(
                "job %s: %s -> %s (%s)",
                job.id,
                before.status,
                job.status,
                job.detail or job.reason or "no reason",
            )
            self._world.wake("runs", job.run_id)
            self._wake_siblings(job, run)
            if run.service is not None:
                self._world.wake("routes", "all")
        match job.status:
            case status if (seen.silence or seen.lost) and not status.finished:
                pass  # nobody is there who could do anything
            case JobStatus.PROVISIONING:
                self._world.wake("instances", job.instance or "")
            case JobStatus.PULLING:
                self._ensure_prepared(before, job, run)
            case JobStatus.RUNNING:
                self._ensure("attend", job, lambda: self._attend(job))
            case JobStatus.TERMINATING:
                self._end(job, run)
            case JobStatus.SUBMITTED if before.status is not JobStatus.SUBMITTED:
                self._world.activities.forget(job.container)
            case status if status.finished:
                self._finish(job)

    def _ensure(self, verb: str, job: Job, act: Callable[[], object]) -> None:
        self._world.activities.ensure(
            verb, job.container, act, lambda: self._world.wake("jobs", job.id)
        )

    def _ensure_prepared(self, before: Job, job: Job, run: Run) -> None:
        """Have the job prepared and started; one of several nodes only once all are prepared."""
        if nodes_of(run.configuration) > 1 and not job.prepared:
            self._ensure("fetch", job, lambda: self._fetch(job, run))
        elif self._gathers(job, run) is None:
            self._ensure("prepare", job, lambda: self._prepare(job, run))
        if job.prepared and not before.prepared:
            self._wake_siblings(job, run)

    def _wake_siblings(self, job: Job, run: Run) -> None:
        if nodes_of(run.configuration) > 1:
            for other in self._siblings(job):
                if other.id != job.id and not other.finished:
                    self._world.wake("jobs", other.id)

    def _fetch(self, job: Job, run: Run) -> None:
        spec = container_spec(run, job, self._world.home)
        self._host(job).prepare(spec, partial(self._tell, job))

    def _nodes(self, job: Job, run: Run) -> tuple[Node, ...]:
        """Return where all nodes of the job's attempt are; of a single one nobody asks."""
        if nodes_of(run.configuration) == 1:
            return ()
        return nodes_in(self._siblings(job), self._world.store.instance)

    def _prepare(self, job: Job, run: Run) -> None:
        world = self._world
        host = self._host(job)
        spec = container_spec(run, job, world.home, nodes=self._nodes(job, run))
        host.prepare(spec, partial(self._tell, job))
        files = world.blobs.files(run.files) if run.files is not None else None
        if files is not None and isinstance(host, KeepsFiles):
            host.send_files(spec, files, partial(self._tell, job))
        world.checkpoint("job prepared")
        if not self._still_wanted(job):
            return
        try:
            host.start(spec, files, self.log_of(job))
        except HostUnreachable:
            raise
        except DstackError:
            host.remove(job.container)
            raise
        # At once, for the first line's sake, and not with the loop's next look.
        self._ensure("attend", job, lambda: self._attend(job))
        world.checkpoint("job started")
        self._end_unwanted(job)

    def _still_wanted(self, job: Job) -> bool:
        """Tell whether the job was not ended meanwhile: a long pull is not waited for."""
        kept = self._world.store.job(job.id)
        return kept is not None and kept.record.status in _WANTED

    def _end_unwanted(self, job: Job) -> None:
        """End the container just started if its job was ended meanwhile.

        Whoever ended it may have found no container to stop yet. What it left stays for `pull`.
        """
        kept = self._world.store.job(job.id)
        found = self._world.store.run_by_id(job.run_id)
        host = self._host(job)
        if kept is None or found is None:
            host.remove(job.container)
        elif kept.record.status not in _WANTED:
            at_once = kept.record.finished or found.record.abort
            host.stop(job.container, timedelta(0) if at_once else stop_grace(found.record))

    def _attend(self, job: Job) -> None:
        _patiently(lambda: self._host(job).attend(job.container, self.log_of(job)))

    def _end(self, job: Job, run: Run) -> None:
        if job.offer is None:
            return
        host = self._host(job)
        # Also of a job that we did not see start yet: its container may be up and at work.
        grace = timedelta(0) if run.abort else stop_grace(run)
        self._ensure("stop", job, lambda: _patiently(lambda: host.stop(job.container, grace)))
        self._ensure("attend", job, lambda: self._attend(job))
        if run.abort and self._world.activities.is_running("stop", job.container):
            self._ensure("abort", job, lambda: host.stop(job.container, timedelta(0)))

    def _finish(self, job: Job) -> None:
        self._world.activities.forget(job.container)
        self._stopwatch.forget(job.container)
        self._silences.forget(job)
        self._world.live.ring()
        if job.instance is not None:
            self._world.wake("instances", job.instance)
        for kept in self._world.store.jobs(finished=False):
            if kept.record.status is JobStatus.SUBMITTED:
                self._world.wake("jobs", kept.record.id)

    def _next_look(self, before: Job, after: Job, seen: JobSighting) -> timedelta | None:
        if after.status is not before.status:
            return None if after.finished else timedelta(0)
        if seen.silence is not None:
            return min(SILENCE_TICK, max(seen.silence.patience - seen.silence.lasted, _SOON))
        if after.status is JobStatus.RUNNING and seen.max_duration is not None:
            left = seen.max_duration + decisions.DURATION_SLACK - seen.ran
            return max(left, _SOON)
        if after.status is JobStatus.TERMINATING and not (seen.stopped and seen.drained):
            return UNREACHABLE_WAIT
        return None

    # --- small ---------------------------------------------------------------------------------

    def log_of(self, job: Job) -> Path:
        """Return the folder of the job's output."""
        return self._world.home.logs / job.container

    def _host(self, job: Job) -> Host:
        return self._world.host_of(job)

    def _tell(self, job: Job, step: str, fraction: float | None, text: str) -> None:
        self._world.live.ring(progress=Progress(job.id, step, fraction, text))


def _patiently(act: Callable[[], None]) -> None:
    """Do *act*; where the host cannot do it now, wait before the loop has it done again."""
    try:
        act()
    except Exception:
        pause(UNREACHABLE_WAIT.total_seconds())
        raise


def _ended(outcome: object | None) -> bool:
    return outcome is not None and not isinstance(outcome, HostUnreachable)


def _unfit(job: Job, error: Exception) -> Unfit:
    if not isinstance(error, DstackError):
        logger.error("job %s could not be prepared.", job.id, exc_info=error)
        return Unfit(f"{type(error).__name__}: {error}", JobReason.EXECUTOR_ERROR)
    reason = _UNFIT_REASONS.get(type(error), JobReason.EXECUTOR_ERROR)
    return Unfit(error.message, reason)
