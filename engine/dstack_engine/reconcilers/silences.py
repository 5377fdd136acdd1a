"""Jobs whose machine does not answer, or is ours no more: seen by the job loop before all else."""

from __future__ import annotations

from dstack_engine.decisions import jobs as decisions
from dstack_engine.decisions.jobs import JobSighting, Silence
from dstack_engine.errors import HostUnreachable
from dstack_engine.reconcilers.loop import Stopwatch
from dstack_engine.reconcilers.runs import retry_rule
from dstack_engine.reconcilers.world import World
from dstack_engine.records.jobs import Job, JobReason
from dstack_engine.records.runs import Run


class Silences:
    """Measures for how long jobs' machines have been silent, each since it was seen first here.

    What a machine did before this engine began, and while this computer slept, is not counted.
    """

    def __init__(self, world: World) -> None:
        """Look at the machines of *world*."""
        self._world = world
        self._stopwatch = Stopwatch()

    def look(self, job: Job, run: Run) -> JobSighting | None:
        """Return all there is to see of a job whose machine cannot be asked; None where it can."""
        if job.offer is None:
            return None
        try:
            machine = self._world.machine_of(job)
        except HostUnreachable as gone:
            return JobSighting(lost=gone.message)
        if machine is None or machine.unreachable_since is None:
            return None
        since = machine.unreachable_since
        lasted = self._stopwatch.elapsed(job.container, since, since)
        why = machine.unreachable_why or "it does not say why"
        patience = decisions.RETRIED_PATIENCE if _is_retried(run) else decisions.PATIENCE
        return JobSighting(silence=Silence(machine.name, why, lasted, patience))

    def forget(self, job: Job) -> None:
        """Measure nothing of *job* any more."""
        self._stopwatch.forget(job.container)


def _is_retried(run: Run) -> bool:
    """Tell whether a job of *run* that is interrupted is tried again elsewhere."""
    rule = retry_rule(run)
    return run.service is not None or (rule is not None and rule.covers(JobReason.INTERRUPTED))
