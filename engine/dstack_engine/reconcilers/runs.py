"""The run loop: makes a run's jobs, follows them, tries again, and ends the run with a reason."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from dstack_engine.decisions import runs as decisions
from dstack_engine.decisions import services
from dstack_engine.decisions.runs import RetryRule
from dstack_engine.reconcilers.loop import Stopwatch
from dstack_engine.reconcilers.world import World
from dstack_engine.records.jobs import Job, JobReason
from dstack_engine.records.runs import Run, RunStatus
from dstack_engine.spec.configurations import ServiceConfiguration, TaskConfiguration
from dstack_engine.spec.profiles import effective_retry

logger = logging.getLogger(__name__)

#: How often a service is looked at whose load, or whose leaving replicas, must be watched.
SERVICE_TICK = timedelta(seconds=1)


class RunReconciler:
    """Looks at one run and its jobs, decides, saves; waking the job loop is its only act."""

    def __init__(self, world: World) -> None:
        """Work in *world*; its `tick` and `keys` are given to a `Loop`."""
        self._world = world
        self._stopwatch = Stopwatch()

    def keys(self) -> list[str]:
        """Return the ids of all runs that are not at their end."""
        return [kept.record.id for kept in self._world.store.runs(finished=False)]

    def tick(self, run_id: str) -> timedelta | None:
        """Move one run on by what its jobs show; return when to look again."""
        world = self._world
        kept = world.store.run_by_id(run_id)
        if kept is None or kept.record.finished:
            self._stopwatch.forget(run_id)
            return None
        run = kept.record
        jobs = [found.record for found in world.store.jobs(run_id=run_id)]
        world.checkpoint("run looked")
        now = world.clock()
        after = self._decide(run, jobs, now)
        world.checkpoint("run decided")
        with world.store.transaction(now) as transaction:
            transaction.save(kept, after.run, told=services.shows(run, after.run))
            for job in after.new_jobs:
                transaction.insert(job)
        world.checkpoint("run saved")
        self._act(run, jobs, after)
        world.checkpoint("run acted")
        return _next_look(run, jobs, after, now)

    def _decide(self, run: Run, jobs: Sequence[Job], now: datetime) -> decisions.Advance:
        if isinstance(run.configuration, ServiceConfiguration):
            return services.advance_service(run, jobs, self._world.traffic_of(run.id), now)
        return decisions.advance_run(run, jobs, self._rule(run, jobs, now), nodes_of(run), now)

    def _rule(self, run: Run, jobs: Sequence[Job], now: datetime) -> RetryRule | None:
        rule = retry_rule(run)
        if rule is None:
            return None
        since = decisions.window_start(run, jobs)
        return replace(rule, spent=self._stopwatch.elapsed(run.id, since, now))

    def _act(self, before: Run, jobs: Sequence[Job], after: decisions.Advance) -> None:
        for job in after.new_jobs:
            self._world.wake("jobs", job.id)
        if after.run != before and after.run.service is not None:
            self._world.wake("routes", "all")
        for job in jobs:
            wish = wish_for(after.run, job)
            if wish is not None and not job.finished and wish is not wish_for(before, job):
                self._world.wake("jobs", job.id)
        if after.run.status is before.status:
            return
        logger.info(
            "run %s: %s -> %s (%s)",
            before.name,
            before.status,
            after.run.status,
            after.run.reason or "no reason",
        )


def wish_for(run: Run, job: Job) -> JobReason | None:
    """Return why the run wants *job* to end, or None while it does not."""
    if isinstance(run.configuration, ServiceConfiguration):
        return services.wish_for_replica(run, job)
    return decisions.wish_for(run)


def _next_look(
    before: Run, jobs: Sequence[Job], after: decisions.Advance, now: datetime
) -> timedelta | None:
    run = after.run
    if run.finished:
        return None
    if run.service is None:
        due = run.retry_at if run.status is RunStatus.PENDING else None
        if due is None or (due <= now and not all(job.finished for job in jobs)):
            return None  # the job that ends last wakes us
        return max(due - now, timedelta(milliseconds=10))
    if run.service.retiring != (before.service.retiring if before.service else ()):
        return timedelta(0)
    rests = [rest.until for rest in run.service.resting]
    if run.service.retiring or _scales(run) or services.is_being_replaced(run, jobs):
        rests.append(now + SERVICE_TICK)
    return max(min(rests) - now, timedelta(milliseconds=10)) if rests else None


def _scales(run: Run) -> bool:
    wanted = run.configuration
    return isinstance(wanted, ServiceConfiguration) and wanted.replicas.scales


def retry_rule(run: Run) -> RetryRule | None:
    """Return what the run's author wants tried again, or None."""
    retry = effective_retry(run.configuration)
    if retry is None:
        return None
    return RetryRule(frozenset(str(e) for e in retry.on_events), timedelta(seconds=retry.duration))


def nodes_of(run: Run) -> int:
    """Return on how many machines the run wants to be at once."""
    configuration = run.configuration
    return configuration.nodes if isinstance(configuration, TaskConfiguration) else 1
