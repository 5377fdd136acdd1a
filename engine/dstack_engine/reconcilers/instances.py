"""The instance loop: rents a machine that a job was placed on, and says when it is ready.

Machines that are reached by SSH are there already; `machines` looks after them.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from dstack_engine.decisions import instances as decisions
from dstack_engine.reconcilers.machines import MachineReconciler
from dstack_engine.reconcilers.world import World
from dstack_engine.records.instances import InstanceStatus

logger = logging.getLogger(__name__)

#: How often a machine that is booting is asked whether it is ready.
BOOT_INTERVAL = timedelta(seconds=2)


class InstanceReconciler:
    """Looks at one instance's machine, decides, saves, rents."""

    def __init__(self, world: World) -> None:
        """Work in *world*; its `tick` and `keys` are given to a `Loop`."""
        self._world = world
        self._machines = MachineReconciler(world)

    def keys(self) -> list[str]:
        """Return the names of all instances that are not gone."""
        return [kept.record.name for kept in self._world.store.instances(finished=False)]

    def look_again(self, name: str) -> None:
        """Have a machine that is reached by SSH looked into soon, whatever is known of it."""
        self._machines.look_again(name)

    def tick(self, name: str) -> timedelta | None:
        """Move one instance on; return when to look again."""
        world = self._world
        kept = world.store.instance(name)
        if kept is None:
            return None
        instance = kept.record
        if instance.ssh is not None:
            return self._machines.tick(kept)
        backend = world.backends[instance.backend]
        machine = backend.describe(instance.name)
        if machine is None and instance.status is InstanceStatus.PENDING:
            machine = backend.create(instance.offer, instance.name)
        world.checkpoint("instance looked")
        jobs = [found.record for found in world.store.jobs(finished=False)]
        busy = any(job.instance == name for job in jobs)
        now = world.clock()
        after = decisions.advance_instance(instance, machine, busy, now)
        with world.store.transaction(now) as transaction:
            transaction.save(kept, after)
        world.checkpoint("instance saved")
        if after.status is not instance.status:
            logger.info("instance %s: %s -> %s", name, instance.status, after.status)
        if after.status in decisions.READY:
            for job in jobs:
                if job.instance == name:
                    world.wake("jobs", job.id)
            return None
        return BOOT_INTERVAL
