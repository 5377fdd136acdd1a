"""Runs on machines of fleets, over fakes: who goes where, who waits, and for what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_engine.errors import NoOffers
from dstack_engine.home import Home
from dstack_engine.reconcilers import machines
from dstack_engine.records.instances import Instance
from dstack_engine.records.jobs import Job, JobReason, JobStatus
from dstack_engine.records.offers import Gpu, MachineShape
from dstack_engine.records.runs import RunStatus
from dstack_engine.spec.fleets import FleetConfiguration
from tests.reconcilers.test_engine import Ground, a_task

pytestmark = pytest.mark.slow


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    monkeypatch.setattr(machines, "PING_INTERVAL", 0.02)
    ground = Ground(Home(tmp_path / "home"), max_jobs=1)
    yield ground
    ground.close()


def add_fleet(
    ground: Ground, *hosts: object, name: str = "lab", ready: int | None = None, **written: object
) -> None:
    """Apply a fleet of *hosts* and wait until so many of its machines, or all, can be used."""
    configuration = {"type": "fleet", "name": name, "ssh_config": {"hosts": hosts}, **written}
    ground.engine.fleets.apply(FleetConfiguration.model_validate(configuration))
    wanted = len(hosts) if ready is None else ready
    ground.wait(lambda: len(usable(ground, name)) == wanted)


def usable(ground: Ground, fleet: str) -> list[str]:
    offers = ground.world.list_offers()
    return [offer.id for offer in offers if offer.fleet == fleet]


def run(ground: Ground, name: str, number: int, **written: object) -> None:
    wanted = a_task(name=name, **written)
    ground.engine.submit(wanted, submission=f"submission-{number}")


def job_of(ground: Ground, name: str) -> Job:
    job = ground.engine.run(name).job
    assert job is not None
    return job


def until_running(ground: Ground, name: str) -> Job:
    ground.until_status(name, RunStatus.RUNNING)
    return job_of(ground, name)


def test_a_run_is_put_on_a_machine_of_the_fleet_that_it_names(ground: Ground) -> None:
    add_fleet(ground, "ann", "bob")
    run(ground, "fox", 1, fleets=["lab"])
    job = until_running(ground, "fox")
    assert (job.instance, job.offer and job.offer.id) == ("lab-0", "ssh/lab-0")
    assert [name for name, _ in ground.machines.hosts["ann"].calls if name == "start"] == ["start"]
    assert job.reservation is not None
    assert job.reservation.blocks == 1


def test_when_this_computer_is_full_the_next_run_goes_to_a_fleet(ground: Ground) -> None:
    add_fleet(ground, "ann")
    run(ground, "first", 1)
    assert until_running(ground, "first").instance == "local"
    run(ground, "second", 2)
    assert until_running(ground, "second").instance == "lab-0"


def test_a_machine_in_use_is_waited_for_with_who_uses_it_and_taken_when_it_is_free(
    ground: Ground,
) -> None:
    add_fleet(ground, "ann")
    run(ground, "fox", 1, fleets=["lab"])
    holder = until_running(ground, "fox")
    run(ground, "owl", 2, fleets=["lab"])
    ground.until("owl", lambda view: view.job and view.job.waiting)
    assert job_of(ground, "owl").waiting == "waits for lab-0: in use by run fox"
    ground.machines.hosts["ann"].finish(holder.container)
    assert until_running(ground, "owl").instance == "lab-0"


def test_blocks_of_one_machine_are_given_to_several_runs_with_their_gpus(ground: Ground) -> None:
    gpus = tuple(Gpu("T4", 16.0, uuid=f"GPU-{n}") for n in range(4))
    ground.machines.shapes["ann"] = MachineShape(8, 32.0, 100.0, gpus)
    add_fleet(ground, "ann", blocks=2)
    names = ("ape", "bee", "cat")
    for number, name in enumerate(names):
        run(ground, name, number, resources={"gpu": "1.."})
    running = [until_running(ground, name) for name in names[:2]]
    ground.until("cat", lambda view: view.job and view.job.waiting)
    assert [job.reservation and job.reservation.gpus for job in running] == [
        ("GPU-0", "GPU-1"),
        ("GPU-2", "GPU-3"),
    ]
    specs = [ground.machines.hosts["ann"].machine.containers[job.container].spec for job in running]
    assert [(spec.limits.cpus, spec.limits.memory_gb) for spec in specs] == [(4.0, 16.0)] * 2
    assert job_of(ground, "cat").waiting == (
        "waits for 1 of the 2 blocks of lab-0: 2 are in use by run ape, bee"
    )


def test_a_silent_machine_is_waited_for_with_why(ground: Ground) -> None:
    add_fleet(ground, "ann")
    ground.machines.silence("ann", "No route to host")
    ground.wait(lambda: not _instance(ground, "lab-0").reachable)
    run(ground, "fox", 1, fleets=["lab"])
    view = ground.until("fox", lambda view: view.job and view.job.waiting)
    assert view.job is not None
    assert view.job.waiting == "waits: lab-0 (ann) does not answer: No route to host"
    ground.machines.answer("ann")
    assert until_running(ground, "fox").instance == "lab-0"


def test_a_run_that_waits_takes_a_machine_that_joined_the_fleet_since(ground: Ground) -> None:
    add_fleet(ground, "ann")
    run(ground, "fox", 1, fleets=["lab"])
    until_running(ground, "fox")
    run(ground, "owl", 2, fleets=["lab"])
    ground.until("owl", lambda view: view.job and view.job.waiting)
    add_fleet(ground, "ann", "bob")
    assert until_running(ground, "owl").instance == "lab-1"


def test_a_run_whose_only_machine_has_left_is_told_so(ground: Ground) -> None:
    add_fleet(ground, "ann", "bob")
    ground.machines.silence("bob")
    ground.wait(lambda: not _instance(ground, "lab-1").reachable)
    run(ground, "owl", 1, instance_name="lab-1")
    ground.until("owl", lambda view: view.job and view.job.waiting)
    ground.engine.fleets.delete("lab", [1], force=True)
    view = ground.until("owl", lambda view: view.finished)
    assert view.job is not None
    assert view.job.reason is JobReason.NO_CAPACITY
    assert view.job.detail == "ssh/lab-1: the machine is in no fleet any more"


def test_a_fleet_that_is_not_there_is_told_in_the_refusal(ground: Ground) -> None:
    add_fleet(ground, "ann")
    with pytest.raises(NoOffers, match="fleet lap has no machine that can be used"):
        run(ground, "fox", 1, fleets=["lap"])


def test_ports_are_this_computers_whatever_machine_the_runs_are_on(ground: Ground) -> None:
    add_fleet(ground, "ann", "bob")
    for number, name in enumerate(("ape", "bee")):
        run(ground, name, number, fleets=["lab"], ports=["*:8080"])
    routes = [*until_running(ground, "ape").routes, *until_running(ground, "bee").routes]
    found = sorted((route.local_port, route.container_port) for route in routes)
    assert found == [(8080, 8080), (8081, 8080)]


def test_replicas_are_spread_over_the_machines(ground: Ground) -> None:
    add_fleet(ground, "ann", "bob", blocks=2)
    service = {"type": "service", "port": 80, "replicas": 2, "fleets": ["lab"]}
    run(ground, "fox", 1, **service)
    view = ground.until(
        "fox", lambda view: [job.status for job in view.jobs] == [JobStatus.RUNNING] * 2
    )
    assert sorted(job.instance or "" for job in view.jobs) == ["lab-0", "lab-1"]


def _instance(ground: Ground, name: str) -> Instance:
    kept = ground.world.store.instance(name)
    assert kept is not None
    return kept.record
