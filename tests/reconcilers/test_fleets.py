"""Fleets in the engine's loops over fakes: applied, used, silent, changed, let go; as stories."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dstack_engine.decisions import jobs as decisions
from dstack_engine.errors import Conflict, NotFound, Refused
from dstack_engine.home import Home
from dstack_engine.housekeeping import Housekeeping
from dstack_engine.reconcilers import machines
from dstack_engine.reconcilers.usage import UsageSampler
from dstack_engine.records.fleets import Fleet, FleetStatus, FleetView
from dstack_engine.records.instances import Instance, InstanceStatus
from dstack_engine.records.jobs import JobReason, JobStatus
from dstack_engine.records.offers import MachineShape
from dstack_engine.records.runs import RunStatus, RunView
from dstack_engine.records.sightings import Container
from dstack_engine.spec.fleets import FleetConfiguration
from dstack_engine.spec.parsing import parse_configuration
from tests.reconcilers.test_engine import Ground, a_task

pytestmark = pytest.mark.slow


class FleetGround(Ground):
    """An engine over fakes, whose machines are asked 50 times a second."""

    def apply(self, hosts: str = "[a, b]", name: str | None = "lab", more: str = "") -> FleetView:
        return self.engine.fleets.apply(a_fleet(hosts, name, more))

    def fleet(self, condition: Callable[[FleetView], object], name: str = "lab") -> FleetView:
        """Return the fleet once *condition* holds of it."""
        for _ in range(400):
            view = self.engine.fleets.view(name)
            if condition(view):
                return view
            self._changed.wait(0.05)
            self._changed.clear()
        raise AssertionError(f"the fleet {name} is {self.engine.fleets.view(name)}")

    def ready(self, hosts: str = "[a, b]", name: str = "lab", more: str = "") -> FleetView:
        """Return a fleet of *hosts* once all its machines are ready."""
        wanted = self.apply(hosts, name, more).fleet.configuration.ssh_config
        assert wanted is not None
        return self.fleet(lambda view: statuses(view) == ["idle"] * len(wanted.hosts), name)

    def run_on(self, fleet: str = "lab", number: int = 1, **written: object) -> RunView:
        """Return a run once it runs on a machine of *fleet*."""
        view = self.submit(number, fleets=[fleet], **written)
        return self.until_status(view.name, RunStatus.RUNNING)

    def calls(self, verb: str) -> list[str]:
        return [name for called, name in self.machines.calls if called == verb]


def a_fleet(hosts: str, name: str | None = "lab", more: str = "") -> FleetConfiguration:
    named = f"name: {name}\n" if name is not None else ""
    text = f"type: fleet\n{named}ssh_config:\n  user: ann\n  hosts: {hosts}\n{more}"
    configuration = parse_configuration(text)
    assert isinstance(configuration, FleetConfiguration)
    return configuration


def statuses(view: FleetView) -> list[str]:
    return [str(instance.status) for instance in view.instances]


def names(view: FleetView) -> list[str]:
    return [instance.name for instance in view.instances]


def is_silent(view: FleetView) -> bool:
    return not view.instances[0].reachable


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FleetGround]:
    monkeypatch.setattr(machines, "PING_INTERVAL", 0.02)
    monkeypatch.setattr(machines, "EXAMINE_WAITS", (0.05,))
    monkeypatch.setattr(machines, "RELEASE_WAITS", (0.05,))
    ground = FleetGround(Home(tmp_path / "home"))
    yield ground
    ground.close()


def test_a_fleet_is_made_looked_into_and_told_of(ground: FleetGround) -> None:
    ground.machines.shapes["b"] = MachineShape(16, 64.0, 900.0)
    applied = ground.apply()
    assert (applied.fleet.name, names(applied)) == ("lab", ["lab-0", "lab-1"])
    view = ground.fleet(lambda view: statuses(view) == ["idle", "idle"])
    assert view.fleet.status is FleetStatus.ACTIVE
    assert [(one.name, one.offer.shape.cpus) for one in view.instances] == [
        ("lab-0", 4),
        ("lab-1", 16),
    ]
    told = [e.record for e in ground.engine.history(after=0, run=None, limit=100)]
    assert [one.status for one in told if isinstance(one, Fleet)] == ["submitted", "active"]
    assert [
        str(one.status) for one in told if isinstance(one, Instance) and one.name == "lab-0"
    ] == ["pending", "provisioning", "idle"]


def test_applied_twice_it_is_one_fleet_and_nothing_is_done_again(ground: FleetGround) -> None:
    before = ground.ready()
    assert ground.apply() == before
    assert [view.fleet.name for view in ground.engine.fleets.views()] == ["lab"]


def test_a_fleet_without_a_name_is_known_by_its_machines_when_it_is_applied_again(
    ground: FleetGround,
) -> None:
    first = ground.apply("[a]", name=None)
    again = ground.apply("[a, b]", name=None)
    assert again.fleet.name == first.fleet.name
    ground.fleet(lambda view: statuses(view) == ["idle", "idle"], first.fleet.name)


def test_another_list_of_hosts_adds_some_and_lets_others_go(ground: FleetGround) -> None:
    ground.ready("[a, b]")
    ground.apply("[b, c]")
    view = ground.fleet(lambda view: "lab-0" not in names(view) and "idle" in statuses(view)[1:])
    assert [(one.name, one.offer.instance_type) for one in view.instances] == [
        ("lab-1", "b"),
        ("lab-2", "c"),
    ]
    assert ground.calls("release") == ["lab-0"]
    ground.apply("[b, c, a]")
    ground.fleet(lambda view: statuses(view) == ["idle"] * 3 and names(view)[0] == "lab-0")


def test_a_machine_that_cannot_be_reached_stays_with_its_findings_until_it_is_mended(
    ground: FleetGround,
) -> None:
    ground.machines.silent["b"] = "Connection refused"
    ground.apply()
    view = ground.fleet(lambda view: view.instances and view.instances[-1].examination)
    assert view.fleet.status is FleetStatus.ACTIVE
    broken = view.instances[1]
    assert broken.status is InstanceStatus.PROVISIONING
    assert broken.examination is not None
    assert [one.text for one in broken.examination.findings] == ["Connection refused"]
    plan = ground.engine.plan(a_task())
    assert "lab-1 (b) cannot be used yet: Connection refused" in plan.remarks
    del ground.machines.silent["b"]
    ground.fleet(lambda view: statuses(view) == ["idle", "idle"])


def test_a_run_goes_to_its_fleet_and_its_machine_is_busy_until_it_ends(ground: FleetGround) -> None:
    ground.ready("[a]")
    view = ground.run_on()
    assert view.job is not None
    assert (view.job.instance, view.job.container in containers(ground, "a")) == ("lab-0", True)
    ground.fleet(lambda view: statuses(view) == ["busy"])
    ground.machines.host_named("a").finish(view.job.container)
    ground.until_status("fox", RunStatus.DONE)
    ground.fleet(lambda view: statuses(view) == ["idle"])


def containers(ground: FleetGround, hostname: str) -> list[str]:
    return list(ground.machines.host_named(hostname).machine.containers)


def test_what_is_in_use_is_neither_deleted_nor_changed_and_says_by_whom(
    ground: FleetGround,
) -> None:
    ground.ready("[a, b]")
    view = ground.run_on()
    assert view.job is not None
    used, other = ("a", "b") if view.job.instance == "lab-0" else ("b", "a")
    for refused in (
        lambda: ground.engine.fleets.delete("lab"),
        lambda: ground.engine.fleets.delete("lab", [0 if used == "a" else 1]),
        lambda: ground.apply(f"[{other}]"),
        lambda: ground.apply(f"[{{hostname: {used}, blocks: 2}}, {other}]"),
    ):
        with pytest.raises(Conflict, match=rf"in use by the run fox \({view.job.instance}\)"):
            refused()
    ground.apply(f"[{used}]")
    ground.fleet(lambda view: names(view) == [view.fleet.name + ("-0" if used == "a" else "-1")])


def test_some_machines_are_let_go_and_then_the_rest_with_the_fleet(ground: FleetGround) -> None:
    ground.ready("[a, b, c]")
    ground.engine.fleets.delete("lab", [0, 2])
    view = ground.fleet(lambda view: names(view) == ["lab-1"])
    assert view.fleet.configuration.ssh_config is not None
    assert [host.hostname for host in view.fleet.configuration.ssh_config.hosts] == ["b"]
    with pytest.raises(NotFound, match="no machine 7; it has 1"):
        ground.engine.fleets.delete("lab", [7])
    ground.engine.fleets.delete("lab", [1])
    view = ground.fleet(lambda view: view.fleet.finished)
    assert (view.instances, ground.engine.fleets.views()) == ((), [])
    assert sorted(ground.calls("release")) == ["lab-0", "lab-1", "lab-2"]
    again = ground.ready("[a]")
    assert names(again) == ["lab-0"]


def test_a_machine_that_does_not_answer_is_let_go_when_it_does_or_by_force(
    ground: FleetGround,
) -> None:
    ground.ready("[a, b]")
    for hostname in ("a", "b"):
        ground.machines.silence(hostname)
    ground.engine.fleets.delete("lab")
    view = ground.fleet(lambda view: all(instance.reason for instance in view.instances))
    assert {instance.reason for instance in view.instances} == {"Connection timed out"}
    assert set(statuses(view)) == {"terminating"}
    ground.machines.answer("a")
    ground.fleet(lambda view: names(view) == ["lab-1"])
    ground.engine.fleets.delete("lab", force=True)
    ground.fleet(lambda view: view.fleet.finished)
    assert ground.calls("forget") == ["lab-1"]


def test_a_fleet_that_is_going_is_wished_back_and_comes_when_its_machine_has_gone(
    ground: FleetGround,
) -> None:
    ground.ready("[a]")
    ground.machines.silence("a")
    ground.engine.fleets.delete("lab")
    ground.fleet(lambda view: statuses(view) == ["terminating"])
    ground.apply("[a]")
    assert ground.fleet(lambda view: view.fleet.status is FleetStatus.ACTIVE)
    ground.machines.answer("a")
    ground.fleet(lambda view: statuses(view) == ["idle"])
    assert ground.calls("release")[-1] == "lab-0"


def test_a_machine_of_another_fleet_and_what_nobody_can_rent_are_refused(
    ground: FleetGround,
) -> None:
    ground.ready("[a]")
    with pytest.raises(Conflict, match="a is lab-0 of the fleet lab already"):
        ground.apply("[a, b]", name="other")
    with pytest.raises(Refused, match="no cloud"):
        ground.engine.fleets.apply(
            parse_configuration("type: fleet\nnodes: 2")  # type: ignore[arg-type]
        )
    with pytest.raises(NotFound) as refusal:
        ground.engine.fleets.view("lap")
    assert "'lab'" in (refusal.value.hint or "")


def test_it_is_looked_into_again_when_somebody_says_so_or_trusts_its_new_key(
    ground: FleetGround,
) -> None:
    ground.ready("[a]")
    ground.machines.shapes["a"] = MachineShape(64, 256.0)
    ground.engine.fleets.examine("lab")
    ground.fleet(lambda view: view.instances[0].offer.shape.cpus == 64)
    ground.machines.shapes["a"] = MachineShape(32, 256.0)
    ground.engine.fleets.trust("lab", 0)
    assert ground.calls("forget") == ["lab-0"]
    ground.fleet(lambda view: view.instances[0].offer.shape.cpus == 32)


# --- silence ----------------------------------------------------------------------------------


def test_a_lost_link_is_no_failed_job_and_says_so_until_the_machine_is_back(
    ground: FleetGround,
) -> None:
    ground.ready("[a]")
    view = ground.run_on()
    ground.machines.silence("a")
    waiting = ground.until("fox", lambda view: view.job and view.job.waiting)
    assert waiting.job is not None
    assert waiting.job.waiting == "lab-0 does not answer: Connection timed out"
    assert waiting.job.status is JobStatus.RUNNING
    ground.machines.answer("a")
    back = ground.until("fox", lambda view: view.job and not view.job.waiting)
    assert back.job is not None
    assert view.job is not None
    assert (back.job.id, back.job.status) == (view.job.id, JobStatus.RUNNING)
    ground.machines.host_named("a").print(view.job.container, b"on\n")
    ground.machines.host_named("a").finish(view.job.container)
    ground.until_status("fox", RunStatus.DONE)
    starts = [verb for verb, _ in ground.machines.host_named("a").calls if verb == "start"]
    assert starts == ["start"]
    assert len(ground.calls("examine")) >= 2, "it may have been started anew"


def test_a_machine_that_misses_every_other_question_is_not_called_silent(
    ground: FleetGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.ready("[a]")
    answers = itertools.cycle(["Connection timed out", None])
    asked: list[str | None] = []

    def ping(_instance: Instance) -> str | None:
        asked.append(next(answers))
        return asked[-1]

    monkeypatch.setattr(ground.machines, "ping", ping)
    ground.fleet(lambda _view: len(asked) > 6)
    told = [e.record for e in ground.engine.history(after=0, run=None, limit=100)]
    assert all(one.reachable for one in told if isinstance(one, Instance))


def test_after_patience_the_job_is_interrupted_and_goes_on_elsewhere_and_never_runs_double(
    ground: FleetGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    Housekeeping(ground.engine, lambda: iter(()))
    monkeypatch.setattr(decisions, "RETRIED_PATIENCE", timedelta(seconds=0.3))
    ground.ready("[a, b]")
    first = ground.run_on(retry={"on_events": ["interruption"]})
    assert first.job is not None
    lost, other = ("a", "b") if first.job.instance == "lab-0" else ("b", "a")
    ground.machines.silence(lost)
    second = ground.until(
        "fox", lambda v: v.job and v.job.attempt == 2 and v.job.status is JobStatus.RUNNING
    )
    assert second.job is not None
    assert second.job.container in containers(ground, other)
    assert second.jobs[0].reason is JobReason.INTERRUPTED
    assert "Connection timed out" in (second.jobs[0].detail or "")
    was = ground.machines.host_named(lost).machine.containers[first.job.container]
    assert was.sighting.container is Container.UP, "nobody could tell it to end"
    ground.machines.answer(lost)
    ground.fleet(lambda view: all(one.reachable for one in view.instances))
    assert was.sighting.container is Container.EXITED, "it was ended before anything is placed"
    assert second.job.container in containers(ground, other)


def test_without_a_retry_the_run_fails_only_after_the_long_patience(
    ground: FleetGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "PATIENCE", timedelta(seconds=0.5))
    ground.ready("[a]")
    ground.run_on()
    ground.machines.silence("a")
    view = ground.until("fox", lambda view: view.finished)
    assert (view.status, view.job and view.job.reason) == (
        RunStatus.FAILED,
        JobReason.INTERRUPTED,
    )


def test_an_abort_does_not_wait_for_a_machine_that_does_not_answer(ground: FleetGround) -> None:
    ground.ready("[a]")
    ground.run_on()
    ground.machines.silence("a")
    ground.fleet(is_silent)
    ground.engine.stop_run("fox", abort=True)
    view = ground.until_status("fox", RunStatus.TERMINATED)
    assert view.job is not None
    assert view.job.status is JobStatus.ABORTED


def test_what_runs_on_a_machine_that_is_forced_away_is_interrupted_at_once(
    ground: FleetGround,
) -> None:
    ground.ready("[a]")
    ground.run_on()
    ground.machines.silence("a")
    ground.engine.fleets.delete("lab", force=True)
    view = ground.until("fox", lambda view: view.finished)
    assert view.job is not None
    assert view.job.detail == "the machine lab-0 (a) is ours no more"
    ground.fleet(lambda view: view.fleet.finished)


def test_a_machine_that_fell_silent_is_looked_into_for_what_to_do_about_it(
    ground: FleetGround,
) -> None:
    ground.ready("[a]")
    ground.machines.silence("a", "the host key has changed")
    view = ground.fleet(lambda view: (found := view.instances[0].examination) and not found.usable)
    (machine,) = view.instances
    assert (machine.status, machine.reachable) == (InstanceStatus.IDLE, False)
    assert machine.examination is not None
    assert machine.examination.findings[0].fix == "Switch it on."
    ground.machines.answer("a")
    ground.fleet(lambda view: view.instances[0].examination.usable)  # type: ignore[union-attr]
    ground.fleet(lambda view: statuses(view) == ["idle"])


def test_a_run_for_a_machine_that_does_not_answer_says_so_and_waits(ground: FleetGround) -> None:
    ground.ready("[a]")
    ground.machines.silence("a", "Connection timed out")
    ground.fleet(is_silent)
    ground.submit(fleets=["lab"])
    view = ground.until("fox", lambda view: view.job and view.job.waiting)
    assert view.job is not None
    assert "lab-0 (a) does not answer: Connection timed out" in (view.job.waiting or "")
    ground.machines.answer("a")
    ground.until_status("fox", RunStatus.RUNNING)


def test_what_is_over_is_taken_away_from_every_machine_that_answers(ground: FleetGround) -> None:
    keeper = Housekeeping(ground.engine, lambda: iter(()))
    ground.ready("[a, b]")
    view = ground.run_on()
    assert view.job is not None
    used, other = ("a", "b") if view.job.instance == "lab-0" else ("b", "a")
    leave_a_copy(ground, view.job.container, used, other)
    keeper.reap()
    assert containers(ground, used) == [view.job.container], "it runs there"
    assert containers(ground, other) == [], "it is another machine's"
    ground.machines.host_named(used).finish(view.job.container)
    ground.until_status("fox", RunStatus.DONE)
    ground.engine.delete_run("fox")
    ground.machines.silence(other)
    keeper.reap()
    assert containers(ground, used) == []
    ground.fleet(lambda view: not all(one.reachable for one in view.instances))
    (trouble,) = [found for found in keeper.doctor() if not found.ok and found.subject != "disk"]
    assert "does not answer" in trouble.text


def leave_a_copy(ground: FleetGround, container: str, there: str, here: str) -> None:
    """Leave a container on *here* as it is on *there*: of an attempt to start that failed."""
    on_there, on_here = (ground.machines.host_named(name).machine for name in (there, here))
    on_here.containers[container] = on_there.containers[container]


def test_a_plan_says_which_machines_lack_the_image_and_what_is_wrong_where_it_matters(
    ground: FleetGround,
) -> None:
    ground.ready("[a, b]")
    ground.machines.silence("b")
    ground.fleet(lambda view: not view.instances[1].reachable)
    plan = ground.engine.plan(a_task(image="busybox"))
    remarks = {offer.id: offer.remarks for offer in plan.offers}
    assert remarks["ssh/lab-0"] == ("busybox is not on lab-0 yet; it will be pulled",)
    assert "lab-1 (b) does not answer: Connection timed out" in plan.remarks
    assert ground.engine.plan(a_task(backends=["local"])).remarks == ()
    ground.machines.host_named("a").images.add("busybox")
    plan = ground.engine.plan(a_task(image="busybox"))
    assert {offer.id: offer.remarks for offer in plan.offers}["ssh/lab-0"] == ()


def test_what_a_job_uses_is_measured_on_its_machine(ground: FleetGround) -> None:
    ground.ready("[a]")
    view = ground.run_on()
    assert view.job is not None
    rung = threading.Event()
    subscription = ground.world.live.subscribe(rung.set)
    sampler = UsageSampler(ground.world)
    for _ in range(100):
        sampler.tick("all")
        measured = subscription.take().usage
        if measured:
            break
        rung.wait(0.1)
    assert measured[view.job.id].cpus == 1.0
