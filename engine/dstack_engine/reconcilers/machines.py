"""Machines reached by SSH: looked into, asked whether they answer, let go.

The instance loop hands them over. Every question to a machine is an activity with a thread of its
own, since one that does not answer takes seconds to be given up.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from dstack_engine.decisions import instances as decisions
from dstack_engine.decisions.instances import MachineSighting
from dstack_engine.reconcilers.loop import Pauses
from dstack_engine.reconcilers.world import World
from dstack_engine.records.findings import Finding
from dstack_engine.records.instances import Instance, InstanceStatus
from dstack_engine.records.jobs import Job, JobStatus
from dstack_engine.records.machines import Examination
from dstack_engine.store.store import Kept

logger = logging.getLogger(__name__)

#: How often a machine that can be used is asked whether it still answers, in seconds.
PING_INTERVAL = 4.0

#: So many questions in a row without an answer make a machine one that does not answer.
MISSED_PINGS = 2

#: Seconds before a machine that cannot be used is looked into again.
EXAMINE_WAITS = (30.0, 60.0, 120.0, 300.0)

#: Seconds before a machine that could not be let go is asked again.
RELEASE_WAITS = (2.0, 5.0, 15.0, 30.0, 60.0)

_VERBS = ("examine", "ping", "release")


class MachineReconciler:
    """Looks at one machine, decides, saves, asks it more."""

    def __init__(self, world: World) -> None:
        """Work in *world*, for the instance loop."""
        self._world = world
        self._lock = threading.Lock()
        #: Those that are to be looked into now, whatever is known of them.
        self._wanted: set[str] = set()
        #: Those that were looked into since this engine began.
        self._examined: set[str] = set()
        self._missed: dict[str, int] = {}
        self._pings = Pauses(PING_INTERVAL)
        self._examinations = Pauses(*EXAMINE_WAITS)
        self._releases = Pauses(*RELEASE_WAITS)

    def look_again(self, name: str) -> None:
        """Have the machine looked into soon, also while a look at it is under way."""
        with self._lock:
            self._wanted.add(name)
        self._world.wake("instances", name)

    def tick(self, kept: Kept[Instance]) -> timedelta | None:
        """Move one machine's instance on; return when to look again."""
        world, before = self._world, kept.record
        jobs = [found.record for found in world.store.jobs(finished=False)]
        outcomes = self._outcomes(before.name)
        seen = self._look(before, jobs, outcomes)
        world.checkpoint(f"machine {before.status} looked")
        now = world.clock()
        after = decisions.advance_machine(before, seen, now)
        if after != before:
            with world.store.transaction(now) as transaction:
                transaction.save(kept, after)
        world.checkpoint(f"machine {after.status} saved")
        self._note(before, after, outcomes)
        self._tell(before, after, jobs)
        self._act(after, seen.busy)
        world.checkpoint(f"machine {after.status} acted")
        return self._next_look(before, after, seen.busy)

    # --- look --------------------------------------------------------------------------------

    def _outcomes(self, name: str) -> dict[str, object]:
        """Return what the activities found out that have ended, by their verbs."""
        activities = self._world.activities
        seen = ((verb, activities.outcome(verb, name)) for verb in _VERBS)
        return {verb: outcome for verb, outcome in seen if outcome is not None}

    def _look(
        self, instance: Instance, jobs: list[Job], outcomes: Mapping[str, object]
    ) -> MachineSighting:
        released = outcomes.get("release")
        found = outcomes.get("examine")
        return MachineSighting(
            busy=any(job.instance == instance.name for job in jobs),
            examination=None if found is None else self._found(instance, found),
            answered=outcomes.get("ping") is True,
            silent=self._silence(instance, outcomes.get("ping")),
            released=released is True,
            held=str(released) if isinstance(released, Exception) else None,
        )

    def _found(self, instance: Instance, outcome: object) -> Examination:
        if not isinstance(outcome, Examination):
            logger.error("machine %s could not be looked into: %r", instance.name, outcome)
            text = f"could not be looked into: {outcome}"
            wrong = Finding(False, "look", text, "The engine's log has more.", fatal=True)
            return Examination(self._world.clock(), (wrong,))
        others = [kept.record for kept in self._world.store.instances(finished=False)]
        twice = decisions.doubled(instance, outcome, others)
        return outcome if twice is None else replace(outcome, findings=(*outcome.findings, twice))

    def _silence(self, instance: Instance, ping: object | None) -> str | None:
        if ping is None or ping is True:
            return None
        missed = self._missed.get(instance.name, 0) + 1
        return str(ping) if missed >= MISSED_PINGS or not instance.reachable else None

    # --- note, tell --------------------------------------------------------------------------

    def _note(self, before: Instance, after: Instance, outcomes: Mapping[str, object]) -> None:
        """Remember what was seen, once it is saved; what a crash forgets is seen again."""
        name = before.name
        if "ping" in outcomes:
            self._missed[name] = 0 if outcomes["ping"] is True else self._missed.get(name, 0) + 1
        if "examine" in outcomes:
            if name not in self._examined:
                self._world.wake("reaper", "all")  # only now is it reached by this engine
            self._examined.add(name)
            if after.status in decisions.READY:
                self._examinations.forget(name)
        elif after.reachable != before.reachable:
            with self._lock:  # for what to do about it; or it may have been started anew
                self._wanted.add(name)
        if outcomes:
            self._world.activities.forget(name, *outcomes)
        if after.status is InstanceStatus.TERMINATED:
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._examined.discard(name)
        self._missed.pop(name, None)
        for pauses in (self._pings, self._examinations, self._releases):
            pauses.forget(name)

    def _tell(self, before: Instance, after: Instance, jobs: list[Job]) -> None:
        ready = decisions.is_ready(after)
        if (before.status, before.reachable) == (after.status, after.reachable):
            return
        logger.info(
            "machine %s: %s -> %s (%s)",
            after.name,
            before.status,
            after.status,
            after.unreachable_why or decisions.trouble_of(after) or "can be used",
        )
        leaves = after.delete_requested_at is not None
        for job in jobs:
            waits = job.status is JobStatus.SUBMITTED and (ready or leaves)
            if job.instance == after.name or waits:
                self._world.wake("jobs", job.id)
        if ready and not decisions.is_ready(before):
            self._world.wake("reaper", "all")  # what ended or went elsewhere meanwhile is there
        if after.status is InstanceStatus.TERMINATED:
            for kept in self._world.store.fleets(finished=False):
                self._world.wake("fleets", kept.record.name)

    # --- act ---------------------------------------------------------------------------------

    def _act(self, instance: Instance, busy: bool) -> None:
        if instance.status is InstanceStatus.TERMINATED:
            return
        if instance.status is InstanceStatus.TERMINATING:
            self._let_go(instance)
        elif self._wants_examination(instance):
            self._examine(instance)
        elif _is_asked(instance, busy) and not self._pings.left(instance.name):
            self._ensure("ping", instance, lambda: self._ping(instance))
            self._pings.begin(instance.name)

    def _wants_examination(self, instance: Instance) -> bool:
        name = instance.name
        if self._world.activities.is_running("examine", name):
            return False
        if name in self._wanted or name not in self._examined:
            return True
        unusable = instance.status is InstanceStatus.PROVISIONING
        return unusable and not self._examinations.left(name)

    def _examine(self, instance: Instance) -> None:
        with self._lock:
            self._wanted.discard(instance.name)
        self._examinations.begin(instance.name)
        self._ensure("examine", instance, lambda: self._look_into(instance))

    def _ping(self, instance: Instance) -> str | None:
        why = self._world.machines.ping(instance)
        if why is None and not instance.reachable:
            self._world.sweep(instance)
        return why

    def _look_into(self, instance: Instance) -> Examination:
        found = self._world.machines.examine(instance)
        if found.shape is not None and not instance.reachable:
            self._world.sweep(instance)
        return found

    def _let_go(self, instance: Instance) -> None:
        if self._world.activities.is_running("examine", instance.name):
            return  # which would claim the machine again
        if instance.delete_forced:
            self._ensure("release", instance, lambda: self._world.machines.forget(instance))
        elif not self._releases.left(instance.name):
            self._ensure("release", instance, lambda: self._release(instance))
            self._releases.begin(instance.name)

    def _release(self, instance: Instance) -> None:
        self._world.machines.release(instance)
        self._world.checkpoint("machine released")

    def _ensure(self, verb: str, instance: Instance, act: Callable[[], object]) -> None:
        wake = self._world.wake
        self._world.activities.ensure(
            verb, instance.name, act, lambda: wake("instances", instance.name)
        )

    # --- when again --------------------------------------------------------------------------

    def _next_look(self, before: Instance, after: Instance, busy: bool) -> timedelta | None:
        name = after.name
        if after.status is InstanceStatus.TERMINATED or self._is_under_way(name):
            return None
        if after.status is not before.status:
            return timedelta(0)
        waits = []
        if after.status is InstanceStatus.TERMINATING:
            waits.append(self._releases.left(name))
        elif _is_asked(after, busy):
            waits.append(self._pings.left(name))
        if after.status is InstanceStatus.PROVISIONING:
            waits.append(self._examinations.left(name))
        return max(min(waits), timedelta(seconds=0.05)) if waits else None

    def _is_under_way(self, name: str) -> bool:
        """Tell whether an activity is not over yet: its end wakes the loop."""
        return any(self._world.activities.is_running(verb, name) for verb in _VERBS)


def _is_asked(instance: Instance, busy: bool) -> bool:
    """Tell whether the machine is asked again and again whether it answers."""
    return busy or instance.status in decisions.READY or not instance.reachable
