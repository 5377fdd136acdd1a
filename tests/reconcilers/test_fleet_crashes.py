"""The engine is killed between any two steps of a fleet's life, and another goes on: nothing is
lost, nothing is done double.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from dstack_engine.backends.registry import Registry
from dstack_engine.files.blobs import BlobStore
from dstack_engine.fleets import Fleets
from dstack_engine.home import Home
from dstack_engine.live import Live
from dstack_engine.reconcilers.fleets import FleetReconciler
from dstack_engine.reconcilers.instances import InstanceReconciler
from dstack_engine.reconcilers.loop import Activities
from dstack_engine.reconcilers.world import World
from dstack_engine.records.fleets import FleetStatus, FleetView
from dstack_engine.settings import Settings
from dstack_engine.store.store import Store
from dstack_engine.testing import FakeClock, FakeGatewayLink, FakeMachines
from tests.reconcilers.test_fleets import a_fleet, names, statuses


class Killed(BaseException):
    """The engine's process is no more."""


class InlineActivities(Activities):
    """Acts are done where they are asked for, so that every step is met in the same order."""

    def ensure(
        self, verb: str, key: str, act: Callable[[], object], on_end: Callable[[], None]
    ) -> None:
        if (verb, key) not in self._outcomes:
            self._run((verb, key), act, on_end)


class Queue:
    """A loop without threads."""

    def __init__(self, wakes: deque[tuple[str, str]], name: str) -> None:
        self._wakes = wakes
        self._name = name

    def wake(self, key: str, _delay: object = None) -> None:
        if (self._name, key) not in self._wakes:
            self._wakes.append((self._name, key))


class OneEngine:
    """An engine's half of fleets, from its start to its death."""

    def __init__(self, home: Home, machines: FakeMachines, checkpoint: Callable[[str], None]):
        self.store = Store(home.make().database)
        self._wakes: deque[tuple[str, str]] = deque()
        world = World(
            home=home,
            settings=Settings(),
            store=self.store,
            live=Live(),
            blobs=BlobStore(home),
            hosts={},
            machines=machines,
            backends=Registry([]),
            gateway=FakeGatewayLink(),
            port_taken=lambda _port: False,
            clock=FakeClock(),
            checkpoint=checkpoint,
            activities=InlineActivities(),
        )
        for name in ("instances", "fleets", "jobs", "reaper"):
            world.loops[name] = Queue(self._wakes, name)  # type: ignore[assignment]
        instances = InstanceReconciler(world)
        fleets = FleetReconciler(world, instances.look_again)
        self.fleets = Fleets(world, fleets.tick, instances.look_again)
        self._ticks = {"instances": instances.tick, "fleets": fleets.tick}
        for loop, keys in (("fleets", fleets.keys()), ("instances", instances.keys())):
            self._wakes.extend((loop, key) for key in keys)

    def settle(self) -> None:
        """Work until nothing wakes anything."""
        while self._wakes:
            loop, key = self._wakes.popleft()
            if loop not in self._ticks:
                continue
            again = self._ticks[loop](key)
            if again is not None and not again:
                self._wakes.append((loop, key))


class Life:
    """A fleet's life through engines of which one is killed at the *n*-th step."""

    def __init__(self, folder: Path, kill_at: int) -> None:
        self._home = Home(folder)
        self._kill_at = kill_at
        self.machines = FakeMachines()
        self.steps: list[str] = []
        self._engine = OneEngine(self._home, self.machines, self._checkpoint)

    def _checkpoint(self, step: str) -> None:
        self.steps.append(step)
        if len(self.steps) == self._kill_at:
            raise Killed(step)

    def do(self, wish: Callable[[Fleets], FleetView]) -> FleetView:
        """Have *wish* granted and settled; who got no answer asks the next engine again."""
        while True:
            try:
                name = wish(self._engine.fleets).fleet.name
                self._engine.settle()
                return self._engine.fleets.view(name)
            except Killed:
                self._engine.store.close()
                self._engine = OneEngine(self._home, self.machines, self._checkpoint)

    def close(self) -> None:
        self._engine.store.close()


def live(folder: Path, kill_at: int) -> Life:
    life = Life(folder, kill_at)
    view = life.do(lambda fleets: fleets.apply(a_fleet("[a, b]")))
    assert (names(view), statuses(view)) == (["lab-0", "lab-1"], ["idle", "idle"])
    view = life.do(lambda fleets: fleets.apply(a_fleet("[b, c]")))
    hosts = {one.name: one.offer.instance_type for one in view.instances}
    assert hosts == {"lab-1": "b", "lab-2": "c"}
    assert statuses(view) == ["idle", "idle"]
    view = life.do(lambda fleets: fleets.delete("lab"))
    assert (view.fleet.status, view.instances) == (FleetStatus.TERMINATED, ())
    released = [name for verb, name in life.machines.calls if verb == "release"]
    assert set(released) == {"lab-0", "lab-1", "lab-2"}
    life.close()
    return life


@pytest.mark.slow
def test_killed_between_any_two_steps_a_fleet_loses_and_doubles_nothing(tmp_path: Path) -> None:
    steps = live(tmp_path / "whole", kill_at=0).steps
    assert len(steps) > 50
    assert {"fleet applied", "fleet saved", "machine idle saved", "machine released"} <= set(steps)
    for kill_at in range(1, len(steps) + 1):
        life = live(tmp_path / str(kill_at), kill_at)
        assert len(life.steps) >= kill_at, f"nobody was killed after {steps[kill_at - 1]}"
