"""The engine is killed between any two steps of a run of several nodes, and another goes on.

Every node runs once, on a machine of its own; none starts before all have their places.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from dstack_engine.backends.registry import Registry
from dstack_engine.backends.ssh import SshBackend
from dstack_engine.files.blobs import BlobStore
from dstack_engine.home import Home
from dstack_engine.live import Live
from dstack_engine.reconcilers.jobs import JobReconciler
from dstack_engine.reconcilers.runs import RunReconciler
from dstack_engine.reconcilers.world import World
from dstack_engine.records.instances import Instance, InstanceName, InstanceStatus
from dstack_engine.records.jobs import JobStatus
from dstack_engine.records.machines import SshTarget
from dstack_engine.records.runs import RunStatus, RunView
from dstack_engine.settings import Settings
from dstack_engine.store.store import Store
from dstack_engine.submissions import Submission, Submissions
from dstack_engine.testing import NOON, FakeClock, FakeGatewayLink, FakeMachines
from tests.decisions.samples import ours
from tests.reconcilers.test_engine import a_task
from tests.reconcilers.test_fleet_crashes import InlineActivities, Killed, Queue

NODES = 3


class OneEngine:
    """An engine's half of runs, from its start to its death."""

    def __init__(self, home: Home, machines: FakeMachines, checkpoint: Callable[[str], None]):
        self.store = Store(home.make().database)
        self._wakes: deque[tuple[str, str]] = deque()
        ssh = SshBackend(lambda: [kept.record for kept in self.store.instances(finished=False)])
        self._world = World(
            home=home,
            settings=Settings(),
            store=self.store,
            live=Live(),
            blobs=BlobStore(home),
            hosts={},
            machines=machines,
            backends=Registry([ssh]),
            gateway=FakeGatewayLink(),
            port_taken=lambda _port: False,
            clock=FakeClock(),
            checkpoint=checkpoint,
            activities=InlineActivities(),
        )
        for name in ("runs", "jobs", "instances", "routes", "reaper"):
            self._world.loops[name] = Queue(self._wakes, name)  # type: ignore[assignment]
        runs, jobs = RunReconciler(self._world), JobReconciler(self._world)
        self._ticks = {"runs": runs.tick, "jobs": jobs.tick}
        for loop, keys in (("runs", runs.keys()), ("jobs", jobs.keys())):
            self._wakes.extend((loop, key) for key in keys)

    def submit(self) -> None:
        wanted = a_task(nodes=NODES, commands=["echo $DSTACK_NODE_RANK"])
        Submissions(self._world).take(Submission("submission-1", wanted, (), {}, None, None))

    def settle(self) -> None:
        """Work until nothing wakes anything."""
        while self._wakes:
            loop, key = self._wakes.popleft()
            again = self._ticks[loop](key) if loop in self._ticks else None
            if again is not None and not again:
                self._wakes.append((loop, key))

    def view(self) -> RunView:
        run = self.store.run("fox").record
        return RunView(run, tuple(kept.record for kept in self.store.jobs(run_id=run.id)))


def add_machines(store: Store, machines: FakeMachines) -> None:
    with store.transaction(NOON) as transaction:
        for number in range(NODES):
            machine = Instance(
                name=InstanceName(f"lab-{number}"),
                backend="ssh",
                offer=ours(f"lab-{number}"),
                status=InstanceStatus.IDLE,
                since=NOON,
                created_at=NOON,
                fleet="lab",
                number=number,
                ssh=SshTarget(f"host-{number}"),
            )
            found = machines.examine(machine)
            transaction.insert(Instance(**{**vars(machine), "examination": found}))


def live(folder: Path, kill_at: int) -> tuple[RunView, FakeMachines, list[str]]:
    """Return how a run ended whose engine was killed at the *n*-th step, and all its steps."""
    home, machines, steps = Home(folder), FakeMachines(), list[str]()

    def checkpoint(step: str) -> None:
        steps.append(step)
        started = sum(len(host.machine.containers) for host in machines.hosts.values())
        if step == "job started" and started == 1:
            assert all(job.prepared for job in engine.view().jobs)
        if len(steps) == kill_at:
            raise Killed(step)

    engine = OneEngine(home, machines, checkpoint)
    add_machines(engine.store, machines)
    for _ in range(2):
        try:
            engine.submit()
            engine.settle()
            break
        except Killed:
            engine.store.close()
            engine = OneEngine(home, machines, checkpoint)
    view = engine.view()
    engine.store.close()
    return view, machines, steps


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> int:
    _, _, met = live(tmp_path_factory.mktemp("whole") / "home", kill_at=0)
    return len(met)


@pytest.mark.slow
def test_a_killed_engine_loses_and_doubles_no_node(tmp_path: Path, steps: int) -> None:
    assert steps > 30
    for kill_at in range(1, steps + 1):
        view, machines, met = live(tmp_path / f"{kill_at}" / "home", kill_at)
        told = f"killed at step {kill_at}, {met[kill_at - 1]!r}"
        assert view.status is RunStatus.DONE, told
        assert [(job.node, job.attempt) for job in view.jobs] == [(0, 1), (1, 1), (2, 1)], told
        assert {job.status for job in view.jobs} == {JobStatus.DONE}, told
        counts = [len(host.machine.containers) for host in machines.hosts.values()]
        assert counts == [1, 1, 1], told
