"""The sampler: measures what running jobs use, while anybody looks."""

from __future__ import annotations

import logging
from datetime import timedelta

from dstack_engine.errors import DstackError
from dstack_engine.reconcilers.world import World
from dstack_engine.records.jobs import JobStatus
from dstack_engine.records.offers import HostKind

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
                    self._measure(kept.record.id, kept.record.container, kept.record.offer.host)
        return INTERVAL

    def _measure(self, job: str, container: str, kind: HostKind) -> None:
        try:
            usage = self._world.hosts[kind].usage(container)
        except DstackError as error:
            logger.debug("job %s could not be measured: %s", job, error)
            return
        if usage is not None:
            self._world.live.ring(usage=(job, usage))
