"""Fleets as somebody applies, looks at and deletes them; the loops do the rest.

What cannot be is refused while its author still looks. Called by `engine`'s owner, the API, from
any thread.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from dstack_engine.decisions import fleets as decisions
from dstack_engine.errors import LeaseLost, NotFound
from dstack_engine.reconcilers.world import World
from dstack_engine.records.fleets import Fleet, FleetStatus, FleetView
from dstack_engine.records.instances import Instance
from dstack_engine.records.jobs import Job
from dstack_engine.spec.fleets import FleetConfiguration
from dstack_engine.spec.names import check_name, random_name
from dstack_engine.store.store import Kept, Transaction


class Fleets:
    """Takes what is wished of fleets."""

    def __init__(
        self,
        world: World,
        advance: Callable[[str], object],
        look_again: Callable[[str], None],
    ) -> None:
        """Work in *world*.

        *advance* moves the fleet of that name on now, as its loop does; *look_again* has the
        machine of that name looked into soon.
        """
        self._world = world
        self._advance = advance
        self._look_again = look_again

    def apply(self, configuration: FleetConfiguration) -> FleetView:
        """Make the fleet, or have the one of its name be as *configuration* says; the loops do it.

        Raises `Refused`, `ArgumentError` (its name), `Conflict` (a machine is another fleet's, or
        one that is to leave or to be split anew is in use).
        """
        decisions.refuse_unsupported(configuration)
        while True:
            try:
                fleet = self._apply(configuration)
                break
            except LeaseLost:
                continue
        self._world.checkpoint("fleet applied")
        self._move_on(fleet.name)
        return self.view(fleet.name)

    def views(self) -> list[FleetView]:
        """Return the fleets that are not gone, by name."""
        kept = self._world.store.fleets(finished=False)
        living = self._living()
        views = [_view(one.record, living) for one in kept]
        return sorted(views, key=lambda view: view.fleet.name)

    def view(self, name: str) -> FleetView:
        """Return the fleet of that name; raise `NotFound` with one that is like it."""
        return _view(self._named(name).record, self._living())

    def delete(self, name: str, numbers: Collection[int] = (), *, force: bool = False) -> FleetView:
        """Wish the fleet gone, or those machines of it that have one of *numbers*.

        With *force* also machines that are in use, or will never answer again: they are forgotten,
        and what runs there is left to itself. Raises `NotFound`, `Conflict` (in use).
        """
        while True:
            try:
                gone = self._delete(name, numbers, force=force)
                break
            except LeaseLost:
                continue
        self._move_on(name)
        for instance in gone:
            self._world.wake("instances", instance.name)
            for kept in self._world.store.jobs(finished=False):
                if kept.record.instance == instance.name:
                    self._world.wake("jobs", kept.record.id)
        return self.view(name)

    def examine(self, name: str) -> FleetView:
        """Have all machines of the fleet looked into now; returns before they are."""
        view = self.view(name)
        for instance in view.instances:
            self._look_again(instance.name)
        return view

    def trust(self, name: str, number: int) -> FleetView:
        """Forget the pinned host key of that machine, so that the one it shows next is trusted."""
        view = self.view(name)
        (instance,) = _numbered(view, [number])
        self._world.machines.forget(instance)
        self._look_again(instance.name)
        return view

    # --- small -------------------------------------------------------------------------------

    def _move_on(self, name: str) -> None:
        """Have the fleet's loop do its part, at once if it can: who asked sees what becomes."""
        self._world.wake("fleets", name)
        with suppress(LeaseLost):  # by the loop, which is at it already
            self._advance(name)

    def _apply(self, configuration: FleetConfiguration) -> Fleet:
        now = self._world.clock()
        store = self._world.store
        with store.transaction(now) as transaction:
            living, jobs = self._living(), self._jobs()
            name = self._name_of(configuration, living)
            wanted = decisions.wanted_machines(configuration)
            decisions.refuse_others(name, wanted, living)
            decisions.refuse_in_use(name, decisions.leaving_machines(name, wanted, living), jobs)
            decisions.refuse_resplit(name, wanted, living, jobs)
            return _wish(name, configuration, store.fleet(name), transaction, now)

    def _name_of(self, configuration: FleetConfiguration, living: Collection[Instance]) -> str:
        """Return the fleet's name: the written one, else that of the nameless fleet it is."""
        if configuration.name is not None:
            return check_name(configuration.name)
        places = {decisions.place_of(one.ssh) for one in decisions.wanted_machines(configuration)}
        for kept in self._world.store.fleets(finished=False):
            fleet = kept.record
            own = decisions.wanted_machines(fleet.configuration)
            shared = any(decisions.place_of(one.ssh) in places for one in own)
            if shared and fleet.configuration.name is None and not fleet.delete_requested_at:
                return fleet.name
        return random_name(taken=[kept.record.name for kept in self._world.store.fleets()])

    def _delete(self, name: str, numbers: Collection[int], *, force: bool) -> list[Instance]:
        now = self._world.clock()
        store = self._world.store
        with store.transaction(now) as transaction:
            kept = self._named(name)
            view = _view(kept.record, self._living())
            meant = _numbered(view, numbers) if numbers else list(view.instances)
            if not force:
                decisions.refuse_in_use(name, meant, self._jobs())
            for instance in meant:
                self._wish_gone(instance, transaction, now, force=force)
            if not kept.record.finished:
                left = _left(kept.record, meant if numbers else None, now)
                transaction.save(kept, left)
            return meant

    def _wish_gone(
        self, instance: Instance, transaction: Transaction, now: datetime, *, force: bool
    ) -> None:
        kept = self._world.store.instance(instance.name)
        assert kept is not None, f"{instance.name} was there in the same transaction"
        at = kept.record.delete_requested_at or now
        forced = kept.record.delete_forced or force
        transaction.save(kept, replace(kept.record, delete_requested_at=at, delete_forced=forced))

    def _named(self, name: str) -> Kept[Fleet]:
        kept = self._world.store.fleet(name)
        if kept is not None:
            return kept
        names = [one.record.name for one in self._world.store.fleets(finished=False)]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "%dstack fleet list shows all fleets."
        raise NotFound(f"There is no fleet {name!r}.", hint=hint)

    def _living(self) -> list[Instance]:
        return [kept.record for kept in self._world.store.instances(finished=False)]

    def _jobs(self) -> list[Job]:
        return [kept.record for kept in self._world.store.jobs(finished=False)]


def _wish(
    name: str,
    configuration: FleetConfiguration,
    kept: Kept[Fleet] | None,
    transaction: Transaction,
    now: datetime,
) -> Fleet:
    """Write the fleet as it is wished; one that is gone, or going, begins anew."""
    if kept is None:
        fleet = Fleet(name, configuration, FleetStatus.SUBMITTED, now, now)
        transaction.insert(fleet)
        return fleet
    before = kept.record
    if before.finished or before.delete_requested_at is not None:
        fleet = Fleet(name, configuration, FleetStatus.SUBMITTED, now, now)
    else:
        fleet = replace(before, configuration=configuration)
    transaction.save(kept, fleet)
    return fleet


def _left(fleet: Fleet, gone: Collection[Instance] | None, now: datetime) -> Fleet:
    """Return the fleet without the machines *gone*; wished gone itself where that leaves none.

    None for *gone* means all of it.
    """
    if gone is not None:
        configuration = decisions.without(fleet.configuration, gone)
        if decisions.wanted_machines(configuration):
            return replace(fleet, configuration=configuration)
    return replace(fleet, delete_requested_at=fleet.delete_requested_at or now)


def _view(fleet: Fleet, living: Collection[Instance]) -> FleetView:
    own = (instance for instance in living if instance.fleet == fleet.name)
    return FleetView(fleet, tuple(sorted(own, key=lambda instance: instance.number)))


def _numbered(view: FleetView, numbers: Collection[int]) -> list[Instance]:
    """Return the machines of the fleet with these numbers; raise `NotFound` for one not there."""
    there = {instance.number: instance for instance in view.instances}
    missing = [number for number in numbers if number not in there]
    if missing:
        known = ", ".join(map(str, there)) or "none"
        raise NotFound(f"Fleet {view.fleet.name!r} has no machine {missing[0]}; it has {known}.")
    return [there[number] for number in dict.fromkeys(numbers)]
