"""The fleet loop: makes a fleet's instances as its configuration says, and lets others go."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta

from dstack_engine.decisions import fleets as decisions
from dstack_engine.errors import LeaseLost
from dstack_engine.reconcilers.world import World
from dstack_engine.records.instances import Instance
from dstack_engine.store.store import Kept, Transaction

logger = logging.getLogger(__name__)


class FleetReconciler:
    """Looks at one fleet and its instances, decides, saves; waking the instance loop is its act."""

    def __init__(self, world: World, look_again: Callable[[str], None]) -> None:
        """Work in *world*; *look_again* has a machine looked into that is reached otherwise now."""
        self._world = world
        self._look_again = look_again

    def keys(self) -> list[str]:
        """Return the names of all fleets that are not at their end."""
        return [kept.record.name for kept in self._world.store.fleets(finished=False)]

    def tick(self, name: str) -> timedelta | None:
        """Move one fleet on; its instances wake it when one of them is gone."""
        world = self._world
        kept = world.store.fleet(name)
        if kept is None or kept.record.finished:
            return None
        living = {found.record.name: found for found in world.store.instances(finished=False)}
        world.checkpoint("fleet looked")
        now = world.clock()
        after = decisions.advance_fleet(kept.record, [one.record for one in living.values()], now)
        world.checkpoint("fleet decided")
        if after.fleet != kept.record or after.instances:
            with world.store.transaction(now) as transaction:
                transaction.require(kept)
                transaction.save(kept, after.fleet)
                for instance in after.instances:
                    self._write(instance, living.get(instance.name), transaction)
        world.checkpoint("fleet saved")
        for instance in after.instances:
            self._wake(living[instance.name].record if instance.name in living else None, instance)
        if after.fleet.status is not kept.record.status:
            logger.info("fleet %s: %s -> %s", name, kept.record.status, after.fleet.status)
        world.checkpoint("fleet acted")
        return None

    def _write(
        self, instance: Instance, before: Kept[Instance] | None, transaction: Transaction
    ) -> None:
        # Of a machine that had the number before and is gone, its record is left.
        over = before or self._world.store.instance(instance.name)
        if over is not None and before is None and not over.record.finished:
            raise LeaseLost(f"{instance.name} was made meanwhile; trying again.")
        if over is None:
            transaction.insert(instance)
        else:
            transaction.save(over, instance)

    def _wake(self, before: Instance | None, after: Instance) -> None:
        if before is not None and _looked_into(before) != _looked_into(after):
            self._look_again(after.name)
        else:
            self._world.wake("instances", after.name)


def _looked_into(instance: Instance) -> tuple[object, ...]:
    """Return what a look into the instance's machine goes by."""
    return instance.ssh, instance.blocks, instance.network
