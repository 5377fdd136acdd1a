"""The run loop: makes a run's jobs, follows them, tries again, and ends the run with a reason."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from dstack_engine.decisions import runs as decisions
from dstack_engine.decisions.runs import RetryRule
from dstack_engine.reconcilers.loop import Stopwatch
from dstack_engine.reconcilers.world import World
from dstack_engine.records.jobs import Job
from dstack_engine.records.runs import Run, RunStatus
from dstack_engine.spec.configurations import TaskConfiguration
from dstack_engine.spec.profiles import effective_retry

logger = logging.getLogger(__name__)


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
        after = decisions.advance_run(run, jobs, self._rule(run, jobs, now), nodes_of(run), now)
        world.checkpoint("run decided")
        with world.store.transaction(now) as transaction:
            transaction.save(kept, after.run)
            for job in after.new_jobs:
                transaction.insert(job)
        world.checkpoint("run saved")
        self._act(run, after)
        world.checkpoint("run acted")
        if after.run.status is RunStatus.PENDING and after.run.retry_at is not None:
            return max(after.run.retry_at - now, timedelta(milliseconds=10))
        return None

    def _rule(self, run: Run, jobs: Sequence[Job], now: datetime) -> RetryRule | None:
        rule = retry_rule(run)
        if rule is None:
            return None
        since = decisions.window_start(run, jobs)
        return replace(rule, spent=self._stopwatch.elapsed(run.id, since, now))

    def _act(self, before: Run, after: decisions.Advance) -> None:
        for job in after.new_jobs:
            self._world.wake("jobs", job.id)
        if after.run.status is before.status and not after.new_jobs:
            return
        logger.info(
            "run %s: %s -> %s (%s)",
            before.name,
            before.status,
            after.run.status,
            after.run.reason or "no reason",
        )
        if decisions.wish_for(after.run) is not None:
            for kept in self._world.store.jobs(run_id=before.id, finished=False):
                self._world.wake("jobs", kept.record.id)


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
