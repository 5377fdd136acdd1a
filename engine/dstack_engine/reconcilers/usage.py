"""The sampler: measures what running jobs use, while anybody looks."""

from __future__ import annotations

import logging
from datetime import timedelta

from dstack_engine.errors import DstackError, HostUnreachable
from dstack_engine.reconcilers.world import World
from dstack_engine.records.jobs import Job, JobStatus

logger = logging.getLogger(__name__)

#: How often running jobs are measured while somebody listens.
INTERVAL = timedelta(seconds=2)


class UsageSampler:
    """A loop with one key: look at all running jobs, tell the streams, come back."""

    def __init__(self, world: World) -> None:
        """Work in *world*; its `tick` and `keys` are given to a `Loop`."""
        self._world = world

    def keys(self) -> list[str]:
        """Return the one key."""
        return ["all"]

    def tick(self, _key: str) -> timedelta | None:
        """Measure every running job once."""
        if self._world.live.heard:
            for kept in self._world.store.jobs(finished=False):
                if kept.record.status is JobStatus.RUNNING and kept.record.offer is not None:
                    self._look_at(kept.record)
        return INTERVAL

    def _look_at(self, job: Job) -> None:
        try:
            machine = self._world.machine_of(job)
        except HostUnreachable:
            return
        if machine is None:
            self._measure(job)
        elif machine.reachable:
            # In a thread of its own: a machine that is frozen must not hold up the others.
            activities = self._world.activities
            activities.forget(job.container, "usage")
            activities.ensure("usage", job.container, lambda: self._measure(job), lambda: None)

    def _measure(self, job: Job) -> None:
        try:
            usage = self._world.host_of(job).usage(job.container)
        except DstackError as error:
            logger.debug("job %s could not be measured: %s", job.id, error)
            return
        if usage is not None:
            self._world.live.ring(usage=(job.id, usage))
