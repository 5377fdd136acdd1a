"""What a fleet's configuration means for its machines, and how those move on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dstack_engine.decisions.fleets import (
    Advance,
    advance_fleet,
    leaving_machines,
    refuse_in_use,
    refuse_others,
    refuse_resplit,
    refuse_unsupported,
    wanted_machines,
    without,
)
from dstack_engine.decisions.instances import (
    MachineSighting,
    advance_machine,
    doubled,
    is_ready,
    name_instance,
    trouble_of,
)
from dstack_engine.errors import Conflict, Refused
from dstack_engine.records.findings import Finding
from dstack_engine.records.fleets import Fleet, FleetStatus
from dstack_engine.records.instances import Instance, InstanceStatus
from dstack_engine.records.jobs import JobId, JobStatus
from dstack_engine.records.machines import Examination, SshTarget
from dstack_engine.records.offers import Gpu, MachineShape
from dstack_engine.spec.fleets import FleetConfiguration
from dstack_engine.spec.parsing import parse_configuration
from tests.decisions.samples import NOON, a_job

LATER = NOON + timedelta(minutes=1)
SHAPE = MachineShape(8, 32.0, 500.0)


def a_configuration(hosts: str = "[a, b]", more: str = "") -> FleetConfiguration:
    text = f"type: fleet\nssh_config:\n  user: ann\n  identity_file: /k\n  hosts: {hosts}\n{more}"
    configuration = parse_configuration(text)
    assert isinstance(configuration, FleetConfiguration)
    return configuration


def a_fleet(hosts: str = "[a, b]", more: str = "", **facts: object) -> Fleet:
    fleet = Fleet("lab", a_configuration(hosts, more), FleetStatus.SUBMITTED, NOON, NOON)
    return replace(fleet, **facts)  # type: ignore[arg-type]


def machines_of(fleet: Fleet) -> tuple[Instance, ...]:
    return advance_fleet(fleet, (), NOON).instances


def examined(
    instance: Instance, *findings: Finding, shape: MachineShape | None = SHAPE
) -> Instance:
    found = Examination(NOON, findings, shape, host_key=f"SHA256:{instance.name}", boot_id="1")
    return advance_machine(instance, MachineSighting(examination=found), NOON)


def test_every_host_becomes_one_instance_with_what_it_says_before_what_all_say() -> None:
    fleet = a_fleet("[a, {hostname: b, user: bob, port: 2222, blocks: 4}]", "blocks: 2\n")
    after = advance_fleet(fleet, (), LATER)
    assert (after.fleet.status, after.fleet.since) == (FleetStatus.ACTIVE, LATER)
    assert [(one.name, one.ssh, one.blocks) for one in after.instances] == [
        ("lab-0", SshTarget("a", None, "ann", "/k"), 2),
        ("lab-1", SshTarget("b", 2222, "bob", "/k"), 4),
    ]
    first = after.instances[0].offer
    assert (first.id, first.region, first.instance_type, first.fleet) == (
        "ssh/lab-0",
        "lab",
        "a",
        "lab",
    )
    assert name_instance(first, JobId("fox-0-0/1")) == "lab-0"


def test_applied_again_a_fleet_changes_nothing() -> None:
    after = advance_fleet(a_fleet(), (), NOON)
    assert advance_fleet(after.fleet, after.instances, LATER) == Advance(after.fleet)


def test_a_host_that_is_not_named_any_more_is_wished_gone_and_a_new_one_takes_its_own_number() -> (
    None
):
    living = machines_of(a_fleet())
    after = advance_fleet(a_fleet("[b, c]"), living, LATER)
    gone, new = after.instances
    assert (gone.name, gone.delete_requested_at) == ("lab-0", LATER)
    assert (new.name, new.ssh and new.ssh.hostname) == ("lab-2", "c")
    later = advance_fleet(a_fleet("[b, c]"), (living[1],), LATER)
    assert [one.name for one in later.instances] == ["lab-0"], "the number is free again"


def test_a_machine_that_still_is_let_go_is_waited_for_whoever_lets_it_go() -> None:
    (going,) = machines_of(replace(a_fleet("[a]"), name="old"))
    going = replace(going, delete_requested_at=NOON, status=InstanceStatus.TERMINATING)
    assert advance_fleet(a_fleet("[a]"), (going,), LATER).instances == ()
    assert [one.name for one in advance_fleet(a_fleet("[a]"), (), LATER).instances] == ["lab-0"]


def test_another_user_or_split_is_written_to_the_instance_that_is_there() -> None:
    living = machines_of(a_fleet("[a]"))
    (changed,) = advance_fleet(a_fleet("[{hostname: a, user: bob}]"), living, LATER).instances
    assert (changed.name, changed.ssh) == ("lab-0", SshTarget("a", None, "bob", "/k"))


def test_a_fleet_wished_gone_ends_when_its_last_machine_is_gone() -> None:
    living = machines_of(a_fleet())
    wished = a_fleet(delete_requested_at=NOON)
    ending = advance_fleet(wished, living, LATER)
    assert ending.fleet.status is FleetStatus.TERMINATING
    assert [one.delete_requested_at for one in ending.instances] == [NOON, NOON]
    assert advance_fleet(ending.fleet, ending.instances, LATER) == Advance(ending.fleet)
    assert advance_fleet(ending.fleet, (), LATER).fleet.status is FleetStatus.TERMINATED


def test_what_means_nothing_here_is_refused_with_what_to_write() -> None:
    for text, words in (
        ("type: fleet", "names no machines"),
        ("type: fleet\nnodes: 2", "no cloud to rent from"),
        ("type: fleet\nenv: [A=1]\nssh_config: {user: u, hosts: [a]}", "`env` of a fleet"),
        (
            "type: fleet\nssh_config: {user: u, identity_file: ~/k, hosts: [a]}",
            "not an absolute path",
        ),
    ):
        configuration = parse_configuration(text)
        assert isinstance(configuration, FleetConfiguration)
        with pytest.raises(Refused, match=words):
            refuse_unsupported(configuration)
    refuse_unsupported(a_configuration())


def test_a_machine_belongs_to_one_fleet() -> None:
    living = machines_of(a_fleet("[a]"))
    wanted = wanted_machines(a_configuration("[A, b]"))
    refuse_others("lab", wanted, living)
    with pytest.raises(Conflict, match="A is lab-0 of the fleet lab already"):
        refuse_others("other", wanted, living)
    refuse_others("other", wanted, [replace(living[0], delete_requested_at=NOON)])


def test_a_machine_in_use_is_neither_taken_away_nor_split_anew() -> None:
    living = machines_of(a_fleet())
    jobs = [a_job("fox", instance="lab-0", status=JobStatus.RUNNING), a_job("owl")]
    wanted = wanted_machines(a_configuration("[b]"))
    leaving = leaving_machines("lab", wanted, living)
    assert [one.name for one in leaving] == ["lab-0"]
    with pytest.raises(Conflict, match=r"in use by the run fox \(lab-0\)") as refusal:
        refuse_in_use("lab", leaving, jobs)
    assert "%dstack stop fox" in (refusal.value.hint or "")
    refuse_in_use("lab", [living[1]], jobs)
    resplit = wanted_machines(a_configuration("[{hostname: a, blocks: 2}, b]"))
    with pytest.raises(Conflict, match="fox"):
        refuse_resplit("lab", resplit, living, jobs)
    refuse_resplit("lab", resplit, living, [])


def test_a_fleet_without_some_of_its_machines_names_the_others_as_they_were_written() -> None:
    configuration = a_configuration("[a, {hostname: b, blocks: 2}]")
    first = machines_of(a_fleet("[a]"))
    left = without(configuration, first).ssh_config
    assert left is not None
    assert [(host.hostname, host.blocks) for host in left.hosts] == [("b", 2)]


# --- machines ---------------------------------------------------------------------------------


def test_a_machine_is_looked_into_and_then_stands_ready_with_what_it_has() -> None:
    (new,) = machines_of(a_fleet("[{hostname: a, blocks: auto}]"))
    looking = advance_machine(new, MachineSighting(), LATER)
    assert (looking.status, looking.since) == (InstanceStatus.PROVISIONING, LATER)
    assert trouble_of(looking) == "lab-0 (a) is being looked into"
    ready = examined(looking)
    assert (ready.status, ready.offer.shape, ready.offer.blocks) == (InstanceStatus.IDLE, SHAPE, 8)
    gpus = tuple(Gpu("A100", 80.0, uuid=f"GPU-{n}") for n in range(2))
    assert examined(looking, shape=replace(SHAPE, gpus=gpus)).offer.blocks == 2
    busy = advance_machine(ready, MachineSighting(busy=True), LATER)
    assert busy.status is InstanceStatus.BUSY
    assert is_ready(busy)


def test_a_machine_that_cannot_be_used_keeps_its_findings_and_is_not_ready() -> None:
    (new,) = machines_of(a_fleet("[a]"))
    trouble = Finding(False, "docker", "has no Docker", "Install it.", fatal=True)
    broken = examined(new, trouble)
    assert broken.status is InstanceStatus.PROVISIONING
    assert trouble_of(broken) == "lab-0 (a) cannot be used yet: has no Docker"
    assert examined(broken).status is InstanceStatus.IDLE


def test_what_was_known_of_a_machine_stays_known_when_it_cannot_be_reached() -> None:
    ready = examined(machines_of(a_fleet("[a]"))[0])
    trouble = Finding(False, "ssh", "Connection timed out", fatal=True)
    after = examined(ready, trouble, shape=None)
    assert after.examination is not None
    assert (after.examination.shape, after.examination.findings) == (SHAPE, (trouble,))
    assert after.status is InstanceStatus.PROVISIONING
    silent = advance_machine(ready, MachineSighting(silent="timed out"), NOON)
    after = examined(silent, trouble, shape=None)
    assert after.status is InstanceStatus.IDLE, "it does not answer: nothing else is known"
    assert after.unreachable_why == "timed out"
    back = advance_machine(after, MachineSighting(answered=True), LATER)
    assert is_ready(back), "what was found while it was silent does not hold any more"
    assert trouble_of(back) is None


def test_a_machine_that_does_not_answer_keeps_its_status_and_says_since_when() -> None:
    ready = examined(machines_of(a_fleet("[a]"))[0])
    silent = advance_machine(ready, MachineSighting(busy=True, silent="timed out"), NOON)
    later = advance_machine(silent, MachineSighting(busy=True, silent="refused"), LATER)
    assert (later.status, later.unreachable_since, later.unreachable_why) == (
        InstanceStatus.BUSY,
        NOON,
        "refused",
    )
    assert not is_ready(later)
    assert trouble_of(later) == "lab-0 (a) does not answer: refused"
    back = advance_machine(later, MachineSighting(busy=True, answered=True), LATER)
    assert (back.reachable, back.unreachable_why, is_ready(back)) == (True, None, True)


def test_a_machine_wished_gone_is_terminating_until_nothing_of_ours_is_on_it() -> None:
    ready = replace(examined(machines_of(a_fleet("[a]"))[0]), delete_requested_at=NOON)
    going = advance_machine(ready, MachineSighting(), NOON)
    assert going.status is InstanceStatus.TERMINATING
    held = advance_machine(going, MachineSighting(held="timed out"), LATER)
    assert (held.status, held.reason) == (InstanceStatus.TERMINATING, "timed out")
    gone = advance_machine(held, MachineSighting(released=True), LATER)
    assert (gone.status, gone.reason) == (InstanceStatus.TERMINATED, None)
    assert advance_machine(gone, MachineSighting(answered=True), LATER) is gone


def test_one_machine_by_two_names_is_used_once() -> None:
    first, second = (examined(one) for one in machines_of(a_fleet()))
    assert first.examination is not None
    found = doubled(second, first.examination, [first, second])
    assert found is not None
    assert found.fatal
    assert "the same machine as lab-0 (a)" in found.text
    other_boot = replace(first.examination, boot_id="2")
    assert doubled(second, other_boot, [first, second]) is None
    assert doubled(first, first.examination, [first]) is None
