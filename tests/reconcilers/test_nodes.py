"""Runs of several nodes on fleets, over fakes: placed, started and ended together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from dstack_engine.errors import ImageUnavailable, NoOffers, NotFound, PortTaken
from dstack_engine.home import Home
from dstack_engine.hosts.base import ContainerSpec
from dstack_engine.reconcilers import machines
from dstack_engine.records.jobs import Job, JobReason, JobStatus
from dstack_engine.records.offers import OfferId
from dstack_engine.records.runs import RunReason, RunStatus, RunView
from dstack_engine.testing import FakeHost
from tests.reconcilers.test_engine import Ground, a_task
from tests.reconcilers.test_places import add_fleet, run

pytestmark = pytest.mark.slow

_SOON = timedelta(seconds=0.3)

HOSTS = {"lab-0": "ann", "lab-1": "bob", "lab-2": "cyd", "lab-3": "dan"}


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    monkeypatch.setattr(machines, "PING_INTERVAL", 0.02)
    ground = Ground(Home(tmp_path / "home"), max_jobs=1)
    yield ground
    ground.close()


def newest(view: RunView) -> list[Job]:
    """Return the jobs of the newest attempt, by node."""
    last = max((job.attempt for job in view.jobs), default=0)
    return sorted((job for job in view.jobs if job.attempt == last), key=lambda job: job.node)


def host_of(ground: Ground, job: Job) -> FakeHost:
    return ground.machines.host_named(HOSTS[job.instance or ""])


def spec_of(ground: Ground, job: Job) -> ContainerSpec:
    return host_of(ground, job).machine.containers[job.container].spec


def until_all_run(ground: Ground, count: int, attempt: int = 1) -> list[Job]:
    def run(view: RunView) -> bool:
        jobs = newest(view)
        running = [job for job in jobs if job.status is JobStatus.RUNNING]
        return len(running) == count and jobs[0].attempt == attempt

    return newest(ground.until("fox", run))


def until_waits(ground: Ground, name: str = "fox") -> dict[int, str]:
    """Return what each node waits for, once all that are not placed wait for something."""

    def wait(view: RunView) -> bool:
        jobs = newest(view)
        return bool(jobs) and all(job.waiting or job.status is JobStatus.RUNNING for job in jobs)

    return {job.node: job.waiting or "" for job in newest(ground.until(name, wait))}


def starts(ground: Ground) -> int:
    calls = [verb for host in ground.machines.hosts.values() for verb, _ in host.calls]
    return calls.count("start")


def nodes_in(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        key[7:]: value for key, value in environment.items() if "NODE" in key and "GPU" not in key
    }


def test_nodes_run_on_machines_of_their_own_and_know_each_other(ground: Ground) -> None:
    add_fleet(ground, "ann", "bob", "cyd")
    run(ground, "fox", 1, nodes=3, ports=["*:8080"])
    jobs = until_all_run(ground, 3)
    assert sorted(job.instance or "" for job in jobs) == ["lab-0", "lab-1", "lab-2"]
    addresses = [HOSTS[job.instance or ""] for job in jobs]
    for job in jobs:
        spec = spec_of(ground, job)
        assert spec.host_network
        assert nodes_in(spec.environment) == {
            "MASTER_NODE_IP": addresses[0],
            "NODE_RANK": str(job.node),
            "NODES_NUM": "3",
            "NODES_IPS": "\n".join(addresses),
        }
    assert [len(job.routes) for job in jobs] == [1, 0, 0]
    for job in jobs:
        host_of(ground, job).finish(job.container)
    ground.until_status("fox", RunStatus.DONE)


def test_an_address_that_the_author_wrote_goes_before_the_one_that_was_found(
    ground: Ground,
) -> None:
    hosts = [
        {"hostname": name, "internal_ip": f"10.0.0.{n}"} for n, name in enumerate(("ann", "bob"))
    ]
    add_fleet(ground, *hosts)
    run(ground, "fox", 1, nodes=2)
    first, _ = until_all_run(ground, 2)
    assert spec_of(ground, first).environment["DSTACK_NODES_IPS"] == "10.0.0.0\n10.0.0.1"


def test_a_run_of_one_node_has_a_network_of_its_own(ground: Ground) -> None:
    add_fleet(ground, "ann")
    run(ground, "fox", 1, fleets=["lab"])
    (job,) = until_all_run(ground, 1)
    assert not spec_of(ground, job).host_network


def test_more_nodes_than_there_are_machines_are_refused_with_the_numbers(ground: Ground) -> None:
    with pytest.raises(NoOffers, match="asks 2 nodes; this computer is one"):
        run(ground, "fox", 1, nodes=2)
    add_fleet(ground, "ann", "bob")
    with pytest.raises(NoOffers, match="asks 3 nodes; fleet lab has 2 machines that fit"):
        run(ground, "fox", 1, nodes=3)


def test_who_chooses_one_machine_for_several_nodes_means_its_fleet(ground: Ground) -> None:
    add_fleet(ground, "ann", "bob")
    add_fleet(ground, "cyd", "dan", name="attic")
    wanted = a_task(nodes=2)
    ground.engine.submit(wanted, submission="one", offers=[OfferId("ssh/attic-1")])
    jobs = newest(ground.until_status("fox", RunStatus.RUNNING))
    assert sorted(job.instance or "" for job in jobs) == ["attic-0", "attic-1"]


def test_no_node_has_a_place_before_all_have(ground: Ground) -> None:
    add_fleet(ground, "ann", "bob")
    run(ground, "owl", 1, fleets=["lab"])
    owl = newest(ground.until_status("owl", RunStatus.RUNNING))[0]
    run(ground, "fox", 2, nodes=2)
    assert until_waits(ground) == {
        0: "waits for 2 machines of fleet lab at once: 1 of 2 has room; lab-0: in use by run owl",
        1: "waits for node 0: all nodes are placed at once",
    }
    run(ground, "late", 3, fleets=["lab"])
    assert until_waits(ground, "late") == {
        0: "waits for lab-1: run fox is before it; or for another machine"
    }
    host_of(ground, owl).finish(owl.container)
    jobs = until_all_run(ground, 2)
    for job in jobs:
        host_of(ground, job).finish(job.container)
    ground.until_status("late", RunStatus.RUNNING)


def test_no_node_starts_before_all_are_prepared(ground: Ground) -> None:
    add_fleet(ground, "ann", "bob", "cyd")
    ground.machines.host_named("cyd").set_unreachable(True)
    run(ground, "fox", 1, nodes=3)

    waits = "waits for node 2: all nodes start together"
    view = ground.until(
        "fox", lambda view: [job.waiting for job in newest(view)[:2]] == [waits] * 2
    )
    assert [job.prepared for job in newest(view)] == [True, True, False]
    assert (starts(ground), view.status) == (0, RunStatus.PROVISIONING)
    ground.machines.host_named("cyd").set_unreachable(False)
    until_all_run(ground, 3)
    assert starts(ground) == 3


def test_a_node_whose_image_cannot_be_had_goes_to_another_machine_before_any_starts(
    ground: Ground,
) -> None:
    add_fleet(ground, "ann", "bob", "cyd")
    ground.machines.host_named("bob").failures.arrange("prepare", ImageUnavailable("disk is full"))
    run(ground, "fox", 1, nodes=2)
    jobs = until_all_run(ground, 2)
    assert [job.instance for job in jobs] == ["lab-0", "lab-2"]
    environment = spec_of(ground, jobs[0]).environment
    assert environment["DSTACK_NODES_IPS"] == "ann\ncyd"


def test_a_node_that_cannot_be_started_ends_the_others_whose_addresses_are_told(
    ground: Ground,
) -> None:
    add_fleet(ground, "ann", "bob", "cyd")
    ground.machines.host_named("bob").failures.arrange("start", PortTaken("port 80 is taken"))
    run(ground, "fox", 1, nodes=2)
    view = ground.until("fox", lambda view: view.finished)
    assert view.run.reason is RunReason.JOB_FAILED
    assert newest(view)[1].reason is JobReason.PORTS_BINDING_FAILED
    assert newest(view)[0].finished


def test_when_one_node_fails_all_are_tried_again(ground: Ground) -> None:
    add_fleet(ground, "ann", "bob")
    run(ground, "fox", 1, nodes=2, retry={"on_events": ["error"]})
    first, second = until_all_run(ground, 2)
    host_of(ground, second).finish(second.container, exit_code=1)
    again = until_all_run(ground, 2, attempt=2)
    before = ground.engine.run("fox").jobs[:2]
    assert sorted(str(job.reason) for job in before) == [
        "container_exited_with_error",
        "terminated_by_server",
    ]
    assert not any(job.container == first.container for job in again)
    for job in again:
        host_of(ground, job).finish(job.container)
    ground.until_status("fox", RunStatus.DONE)


def test_when_one_node_fails_without_retry_all_end(ground: Ground) -> None:
    add_fleet(ground, "ann", "bob")
    run(ground, "fox", 1, nodes=2)
    first, second = until_all_run(ground, 2)
    host_of(ground, first).finish(first.container, exit_code=3)
    view = ground.until("fox", lambda view: view.finished)
    assert (view.status, view.run.reason) == (RunStatus.FAILED, RunReason.JOB_FAILED)
    assert host_of(ground, second).look(second.container).exit_code is not None


def test_with_master_done_the_workers_end_with_the_master(ground: Ground) -> None:
    add_fleet(ground, "ann", "bob")
    run(ground, "fox", 1, nodes=2, stop_criteria="master-done")
    first, _ = until_all_run(ground, 2)
    host_of(ground, first).finish(first.container)
    view = ground.until("fox", lambda view: view.finished)
    assert view.status is RunStatus.DONE
    assert [str(job.reason) for job in newest(view)] == ["done_by_runner", "terminated_by_server"]


@pytest.mark.parametrize(("order", "late"), [("master-first", 1), ("workers-first", 0)])
def test_who_is_to_start_first_does(ground: Ground, order: str, late: int) -> None:
    add_fleet(ground, "ann", "bob")
    early = ground.machines.host_named(("bob", "ann")[late])
    early.failures.arrange("start", PortTaken("port 80 is taken"))
    run(ground, "fox", 1, nodes=2, startup_order=order)
    view = ground.until("fox", lambda view: view.finished)
    calls = [verb for verb, _ in host_of(ground, newest(view)[late]).calls]
    assert "start" not in calls
    early.failures.arrange("start")
    run(ground, "owl", 2, nodes=2, startup_order=order)
    ground.until("owl", lambda view: {job.status for job in newest(view)} == {JobStatus.RUNNING})


def test_a_machine_that_is_lost_interrupts_all_nodes_and_they_are_tried_elsewhere(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack_engine.decisions.jobs.RETRIED_PATIENCE", _SOON)
    add_fleet(ground, "ann", "bob", "cyd")
    run(ground, "fox", 1, nodes=2, retry={"on_events": ["interruption"]})
    until_all_run(ground, 2)
    ground.machines.silence("bob")
    again = until_all_run(ground, 2, attempt=2)
    assert [job.instance for job in again] == ["lab-0", "lab-2"]
    assert {job.reason for job in ground.engine.run("fox").jobs[:2]} == {
        JobReason.INTERRUPTED,
        JobReason.TERMINATED_BY_SERVER,
    }


def test_each_node_has_a_log_of_its_own_and_the_one_that_failed_says_why(ground: Ground) -> None:
    add_fleet(ground, "ann", "bob")
    run(ground, "fox", 1, nodes=2, commands=["echo here", "sleep 9"])
    jobs = until_all_run(ground, 2)
    engine = ground.engine
    assert [engine.newest_job("fox", node=node).id for node in (0, 1)] == [job.id for job in jobs]
    assert engine.newest_job("fox").node == 0
    with pytest.raises(NotFound, match="has no node 2"):
        engine.newest_job("fox", node=2)
    host_of(ground, jobs[1]).print(jobs[1].container, b"from the second\n")
    frames = engine.read_log(jobs[1].container, 0, 1 << 20)
    assert b"".join(frame.payload for frame in frames) == b"here\nfrom the second\n"
    host_of(ground, jobs[1]).finish(jobs[1].container, exit_code=3)
    view = ground.until("fox", lambda view: view.finished)
    assert view.telling is not None
    assert (view.telling.node, view.telling.detail) == (1, "exit code 3")
