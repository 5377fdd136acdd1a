"""A fleet of machines of one's own has good days and bad ones: nothing is lost, nothing doubled.

Real engine, real hosts. What is said to run where is asked of the hosts themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dstack_engine.errors import NoOffers
from dstack_engine.home import Home
from dstack_engine.records.findings import Finding
from dstack_engine.records.instances import InstanceStatus
from dstack_engine.records.jobs import JobReason
from dstack_engine.records.runs import RunStatus, RunView
from tests.hosts.bed import Bed
from tests.hosts.bed_host import BedHost
from tests.journeys.engines import EngineProcess, processes_of
from tests.journeys.fleets import NOTICED, Lab

pytestmark = [pytest.mark.docker, pytest.mark.slow]
soak = pytest.mark.soak

RETRIED = "retry: {on_events: [interruption], duration: 1h}\n"
FOR_EVER = "commands: [echo up, sleep 10000]"

silent_faults = pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        pytest.param(BedHost.cut, BedHost.heal, id="a cable pulled"),
        pytest.param(BedHost.blackhole, BedHost.unblackhole, id="packets lost", marks=soak),
        pytest.param(BedHost.freeze, BedHost.thaw, id="a frozen machine", marks=soak),
    ],
)
Fault = Callable[[BedHost], None]


@pytest.fixture
def lab(engine: EngineProcess, bed: Bed, busybox_image: str) -> Lab:
    """A fleet of the bed's hosts, not applied yet; busybox is what runs there."""
    engine.settings = [f"{kind}_image: {busybox_image}" for kind in ("default", "gpu")]
    engine.settings += ["local: {docker: false}"]
    engine.patience = (8, 12)
    engine.start()
    return Lab(engine, bed)


def counting(to: int) -> str:
    """Return a task that counts, a line every 50 ms."""
    loop = f"i=0; while [ $i -lt {to} ]; do i=$((i+1)); echo $i; usleep 50000; done"
    return f"commands: ['{loop}']"


def counted(lab: Lab, run: str) -> list[int]:
    return [int(line) for line in lab.engine.output(run).split()]


def reasons(view: RunView) -> list[JobReason | None]:
    return [job.reason for job in view.jobs]


def troubles(lab: Lab, host: BedHost) -> list[Finding]:
    """Return what was found wrong with the host."""
    found = lab.machine(host).examination
    return [finding for finding in found.findings if not finding.ok] if found else []


# --- good days ------------------------------------------------------------------------------


def test_a_task_runs_on_a_machine_of_the_fleet_and_nothing_is_left_when_that_is_deleted(
    lab: Lab,
) -> None:
    lab.apply()
    lab.ready()
    name = lab.submit("commands: [echo up, hostname]").name
    view = lab.engine.until_ended(name)
    assert view.status is RunStatus.DONE
    assert lab.engine.output(name).startswith(b"up\n")
    assert any(b"ssh" in words.encode() for words in processes_of(lab.engine.home).values())
    lab.delete()
    assert lab.containers(running=False) == []
    assert [host.docker.volumes.list() for host in lab.bed.hosts] == [[], [], []]
    assert not [words for words in processes_of(lab.engine.home).values() if "ssh " in words]


def test_three_tasks_have_a_machine_each_and_the_fourth_waits_for_one(lab: Lab) -> None:
    lab.apply()
    lab.ready()
    names = [lab.submit(FOR_EVER).name for _ in range(3)]
    for name in names:
        lab.engine.until_prints(name, b"up")
    assert sorted(lab.host_of(name).name for name in names) == ["h1", "h2", "h3"]
    assert [len(found) for found in lab.bed.containers(running=True).values()] == [1, 1, 1]
    fourth = lab.submit("commands: [echo fourth]").name
    lab.until(lambda: "in use" in lab.waiting(fourth), "the fourth task to wait")
    lab.client.stop(names[1])
    assert lab.engine.until_ended(fourth).status is RunStatus.DONE


# --- a machine falls silent -----------------------------------------------------------------


@silent_faults
def test_a_run_on_a_machine_that_falls_silent_goes_on_when_that_is_back(
    lab: Lab, fault: Fault, remedy: Fault
) -> None:
    host = lab.bed.hosts[0]
    lab.apply(host)
    lab.ready()
    name = lab.submit(counting(400)).name
    lab.engine.until_prints(name, b"\n20\n")
    fault(host)
    machine = lab.until_silent(host)
    assert machine.unreachable_why
    lab.until(lambda: "does not answer" in lab.waiting(name), "the run to say so", 10)
    assert lab.client.run(name).status is RunStatus.RUNNING
    remedy(host)
    lab.until(lambda: lab.machine(host).reachable, "the machine to be back", 45)
    view = lab.engine.until_ended(name)
    assert (view.status, reasons(view)) == (RunStatus.DONE, [JobReason.DONE_BY_RUNNER])
    assert counted(lab, name) == list(range(1, 401))


def test_a_cable_that_is_out_for_five_seconds_is_hardly_noticed(lab: Lab) -> None:
    host = lab.bed.hosts[0]
    lab.apply(host)
    lab.ready()
    name = lab.submit(counting(300)).name
    lab.engine.until_prints(name, b"\n20\n")
    host.cut()
    time.sleep(5)
    host.heal()
    view = lab.engine.until_ended(name)
    assert reasons(view) == [JobReason.DONE_BY_RUNNER]
    assert counted(lab, name) == list(range(1, 301))


@soak
@silent_faults
def test_a_run_that_may_be_retried_goes_elsewhere_and_never_runs_twice(
    lab: Lab, fault: Fault, remedy: Fault
) -> None:
    lab.apply()
    lab.ready()
    name = lab.submit(RETRIED + FOR_EVER).name
    lab.engine.until_prints(name, b"up")
    lost = lab.host_of(name)
    fault(lost)
    lab.until_silent(lost)
    lab.until(lambda: len(lab.client.run(name).jobs) == 2, "a second attempt")
    lab.engine.until_prints(name, b"up")
    assert lab.host_of(name) is not lost
    first, second = lab.client.run(name).jobs
    assert (first.reason, second.reason) == (JobReason.INTERRUPTED, None)
    assert "has not answered for" in (first.detail or "")
    remedy(lost)
    lab.until(lambda: lab.containers() == [second.container], "the first container to be ended")
    assert lab.client.run(name).status is RunStatus.RUNNING


@soak
def test_a_run_that_may_not_be_retried_is_given_up_after_a_while(lab: Lab) -> None:
    host = lab.bed.hosts[0]
    lab.apply(host)
    lab.ready()
    name = lab.submit(FOR_EVER).name
    lab.engine.until_prints(name, b"up")
    host.cut()
    view = lab.engine.until_ended(name)
    assert (view.status, reasons(view)) == (RunStatus.FAILED, [JobReason.INTERRUPTED])
    host.heal()
    lab.until(lambda: lab.containers() == [], "its container to be ended")
    lab.ready()
    again = lab.submit("commands: [echo again]").name
    assert lab.engine.until_ended(again).status is RunStatus.DONE


@soak
def test_a_run_that_may_be_retried_waits_for_the_only_machine_there_is(lab: Lab) -> None:
    host = lab.bed.hosts[0]
    lab.apply(host)
    lab.ready()
    name = lab.submit(RETRIED + FOR_EVER).name
    lab.engine.until_prints(name, b"up")
    host.cut()
    lab.until(lambda: len(lab.client.run(name).jobs) == 2, "a second attempt")
    lab.until(lambda: "lab-0" in lab.waiting(name), "the second attempt to wait")
    host.heal()
    lab.engine.until_prints(name, b"up")
    first, second = lab.client.run(name).jobs
    assert first.reason is JobReason.INTERRUPTED
    lab.until(lambda: lab.containers() == [second.container], "one container")


# --- a machine loses power, its Docker Engine or room ---------------------------------------


@pytest.mark.parametrize("fault", [BedHost.kill, pytest.param(BedHost.crash, marks=soak)])
def test_a_run_on_a_machine_that_was_switched_off_and_on_was_interrupted(
    lab: Lab, fault: Fault
) -> None:
    host = lab.bed.hosts[0]
    lab.apply(host)
    lab.ready()
    before = lab.machine(host).examination
    name = lab.submit(FOR_EVER).name
    lab.engine.until_prints(name, b"up")
    fault(host)
    lab.until_silent(host)
    host.poweron()
    view = lab.engine.until_ended(name)
    assert (view.status, reasons(view)) == (RunStatus.FAILED, [JobReason.INTERRUPTED])
    lab.ready()

    def is_looked_into() -> bool:
        now = lab.machine(host).examination
        return bool(before and now and before.boot_id != now.boot_id)

    lab.until(is_looked_into, "a look into the machine as it is now")
    again = lab.submit("commands: [echo again]").name
    assert lab.engine.until_ended(again).status is RunStatus.DONE


@soak
def test_a_run_on_a_machine_that_lost_power_is_retried_on_another(lab: Lab) -> None:
    lab.apply()
    lab.ready()
    name = lab.submit(RETRIED + FOR_EVER).name
    lab.engine.until_prints(name, b"up")
    lost = lab.host_of(name)
    lost.kill()
    lab.until_silent(lost)
    lab.until(lambda: len(lab.client.run(name).jobs) == 2, "a second attempt")
    lab.engine.until_prints(name, b"up")
    lost.poweron()
    lab.ready()
    second = lab.client.run(name).jobs[1]
    lab.until(lambda: lab.containers(running=False).count(second.container) == 1, "one container")
    assert lab.containers() == [second.container]


def test_a_docker_engine_that_is_restarted_interrupts_and_the_machine_is_used_again(
    lab: Lab,
) -> None:
    host = lab.bed.hosts[0]
    lab.apply(host)
    lab.ready()
    name = lab.submit(RETRIED + "commands: [echo up, sleep 15]").name
    lab.engine.until_prints(name, b"up")
    host.restart_docker()
    view = lab.engine.until_ended(name)
    assert view.status is RunStatus.DONE, lab.facts()
    assert reasons(view) == [JobReason.INTERRUPTED, JobReason.DONE_BY_RUNNER]


def test_a_docker_engine_that_is_away_is_told_of(lab: Lab) -> None:
    host = lab.bed.hosts[0]
    lab.apply(host)
    lab.ready()
    host.stop_docker()
    machine = lab.until_silent(host)
    assert "Docker" in (machine.unreachable_why or "")
    host.start_docker()
    lab.ready()


def test_a_full_disk_is_said_and_the_task_goes_to_the_next_machine(lab: Lab) -> None:
    first, second, _ = lab.bed.hosts
    lab.apply(first, second)
    lab.ready()
    first.fill_disk()
    second.fill_disk()
    offers = [lab.machine(host).offer.id for host in (first, second)]
    view = lab.engine.until_ended(lab.submit("commands: [echo up]", first).name)
    assert view.status is RunStatus.FAILED
    assert "disk" in (view.jobs[0].detail or "").lower(), view.jobs[0]
    second.free_disk()
    view = lab.engine.until_ended(lab.submit("commands: [echo up]").name)
    assert view.status is RunStatus.DONE, lab.facts()
    assert view.jobs[0].offer is not None
    assert view.jobs[0].offer.id == offers[1]


@soak
def test_a_slow_cable_makes_nothing_fail(lab: Lab) -> None:
    host = lab.bed.hosts[0]
    host.slow("256kbit")
    lab.apply(host)
    lab.ready()
    name = lab.submit(counting(400)).name
    view = lab.engine.until_ended(name)
    assert reasons(view) == [JobReason.DONE_BY_RUNNER]
    assert counted(lab, name) == list(range(1, 401))
    assert lab.machine(host).reachable


# --- the engine dies ------------------------------------------------------------------------


def test_an_engine_that_is_killed_finds_its_machines_and_their_runs_again(lab: Lab) -> None:
    host = lab.bed.hosts[0]
    lab.apply(host)
    lab.ready()
    name = lab.submit(counting(300)).name
    lab.engine.until_prints(name, b"\n20\n")
    masters = {pid for pid, words in processes_of(lab.engine.home).items() if "ssh " in words}
    lab.engine.kill()
    time.sleep(3)
    lab.engine.start()
    view = lab.engine.until_ended(name)
    assert reasons(view) == [JobReason.DONE_BY_RUNNER]
    assert counted(lab, name) == list(range(1, 301))
    now = {pid for pid, words in processes_of(lab.engine.home).items() if "ssh " in words}
    assert masters == now


@soak
def test_an_engine_that_starts_while_a_machine_is_silent_waits_for_it(lab: Lab) -> None:
    host = lab.bed.hosts[0]
    lab.apply(host)
    lab.ready()
    name = lab.submit(counting(800)).name
    lab.engine.until_prints(name, b"\n20\n")
    host.blackhole()
    lab.engine.kill()
    lab.engine.patience = (60, 60)
    lab.engine.start()
    lab.until_silent(host, 30)
    assert lab.client.run(name).status is RunStatus.RUNNING
    host.unblackhole()
    view = lab.engine.until_ended(name)
    assert reasons(view) == [JobReason.DONE_BY_RUNNER]
    assert counted(lab, name) == list(range(1, 801))


# --- who may come in ------------------------------------------------------------------------


def test_a_changed_host_key_stops_everything_until_it_is_trusted(lab: Lab) -> None:
    host = lab.bed.hosts[0]
    lab.apply(host)
    lab.ready()
    examination = lab.machine(host).examination
    assert examination is not None
    assert examination.host_key is not None
    host.crash()
    shown = host.new_host_key()
    host.poweron()
    lab.until_silent(host)
    lab.until(lambda: troubles(lab, host), "what is wrong")
    told = troubles(lab, host)[0]
    assert examination.host_key in told.text
    assert shown in told.text
    assert told.fix == f"%dstack fleet trust lab {host.address}"
    name = lab.submit("commands: [echo up]").name
    lab.until(lambda: "host key" in lab.waiting(name), "the run to say what it waits for")
    lab.client.trust("lab", 0)
    assert lab.engine.until_ended(name).status is RunStatus.DONE


def test_a_machine_that_does_not_let_us_in_is_told_of_and_used_once_it_does(lab: Lab) -> None:
    host = lab.bed.hosts[0]
    host.sshd_says("AuthorizedKeysFile none")
    lab.apply(host)
    lab.until(lambda: troubles(lab, host), "what is wrong", NOTICED)
    assert "does not take your key" in troubles(lab, host)[0].text
    assert "ssh-copy-id" in (troubles(lab, host)[0].fix or "")
    assert lab.machine(host).status is InstanceStatus.PROVISIONING
    with pytest.raises(NoOffers, match="does not take your key"):
        lab.submit("commands: [echo up]")
    host.sshd_says()
    lab.client.examine_fleet("lab")
    lab.ready()


def test_a_user_who_may_not_use_docker_is_told_how_to(lab: Lab) -> None:
    host = lab.bed.hosts[0]
    lab.client.apply_fleet(lab.configuration([host], user="bob"))
    lab.until(lambda: troubles(lab, host), "what is wrong", NOTICED)
    assert any("usermod -aG docker bob" in (found.fix or "") for found in troubles(lab, host))


def test_a_machine_of_another_engine_is_left_alone(
    lab: Lab, tmp_path: Path, busybox_image: str
) -> None:
    host = lab.bed.hosts[0]
    lab.apply(host)
    lab.ready()
    other = EngineProcess(Home(tmp_path / "other"), [f"default_image: {busybox_image}"]).start()
    try:
        second = Lab(other, lab.bed, "mine")
        second.apply(host)
        second.until(lambda: troubles(second, host), "the claim to be told of", NOTICED)
        assert any("used by the engine of" in found.text for found in troubles(second, host))
        with pytest.raises(NoOffers, match="used by the engine of"):
            second.submit("commands: [echo up]")
        lab.delete()
        second.client.examine_fleet("mine")
        second.ready()
        second.delete()
    finally:
        other.close()


def test_gpus_that_docker_cannot_give_are_not_offered(lab: Lab) -> None:
    liar, honest, _ = lab.bed.hosts
    liar.give_gpus(2, toolkit=False)
    uuids = honest.give_gpus(2)
    lab.apply(liar, honest)
    lab.ready()
    shape = lab.machine(liar).offer.shape
    assert shape.gpus == ()
    assert any("toolkit" in str(found).lower() for found in troubles(lab, liar))
    task = "resources: {gpu: H100:1}\ncommands: [echo $NVIDIA_VISIBLE_DEVICES]"
    name = lab.submit(task).name
    assert lab.engine.until_ended(name).status is RunStatus.DONE
    assert lab.host_of(name) is honest
    assert lab.engine.output(name).decode().strip() in uuids


# --- the fleet itself -----------------------------------------------------------------------


def test_a_fleet_that_is_deleted_while_a_machine_is_silent_waits_for_it(lab: Lab) -> None:
    host, other, _ = lab.bed.hosts
    lab.apply(host, other)
    lab.ready()
    host.cut()
    lab.until_silent(host)
    lab.client.delete_fleet("lab")
    lab.until(lambda: other.docker.volumes.list() == [], "the claim to be gone")
    assert lab.machine(host).status is InstanceStatus.TERMINATING
    host.heal()
    lab.until(lambda: not lab.client.fleets(), "the fleet to be gone")
    assert host.docker.volumes.list() == []


def test_a_machine_that_never_comes_back_is_forgotten_by_force(lab: Lab) -> None:
    host = lab.bed.hosts[0]
    lab.apply(host)
    lab.ready()
    host.kill()
    lab.until_silent(host)
    lab.client.delete_fleet("lab", force=True)
    lab.until(lambda: not lab.client.fleets(), "the fleet to be gone", 15)


def test_a_fleet_that_is_changed_keeps_what_runs(lab: Lab) -> None:
    first, second, third = lab.bed.hosts
    lab.apply(first, second)
    lab.ready()
    name = lab.submit(counting(200), first).name
    lab.engine.until_prints(name, b"\n20\n")
    lab.apply(first, third)
    lab.ready(third)
    lab.until(lambda: second.docker.volumes.list() == [], "the second to be let go")
    assert reasons(lab.engine.until_ended(name)) == [JobReason.DONE_BY_RUNNER]
    assert counted(lab, name) == list(range(1, 201))
