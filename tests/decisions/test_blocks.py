"""Machines of fleets as jobs share them: whole, or in equal parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_engine.decisions.capacity import NoPlace, Placed, Queued, Wait, as_they_stand, place
from dstack_engine.records.jobs import Job, JobStatus, Reservation, TriedOffer
from dstack_engine.records.offers import Availability, Gpu, Offer
from tests.decisions.samples import A100, T4, a_job, gpus, here, ours, running, there, wants

WHOLE = Reservation(cpus=8.0, memory_gb=32.0, blocks=1)


def placed(
    text: str = "",
    offers: Sequence[Offer] = (),
    jobs: Sequence[Job] = (),
    *,
    job: Job | None = None,
    type: str = "task",
    queue: Sequence[Queued] = (),
) -> Placed | Wait | NoPlace:
    """Place a job that asks *text*, submitted ten minutes past noon."""
    wanted = wants(text, type=type)
    return place(job or a_job(minute=10), wanted, offers, jobs, max_jobs=1, queue=queue)


def queued(run: str, text: str, minute: int, *offers: Offer) -> Queued:
    return Queued(a_job(run, minute=minute), wants(text), offers)


# --- one job at a time --------------------------------------------------------------------------


def test_a_machine_that_is_not_split_belongs_to_one_job_without_limits() -> None:
    machine = ours()
    assert placed("", [machine]) == Placed(machine, WHOLE)
    assert placed("resources: {cpu: 2, memory: ..4GB}", [machine]) == Placed(
        machine, replace(WHOLE, cpu_limit=2, memory_limit_gb=4.0)
    )


def test_a_machine_in_use_is_waited_for_with_who_uses_it() -> None:
    machine = ours()
    other = running("wet-fox", machine, WHOLE)
    assert placed("", [machine], [other]) == Wait("waits for lab-0: in use by run wet-fox")
    busy = replace(machine, availability=Availability.BUSY)
    assert placed("", [busy], [other]) == Wait("waits for lab-0: in use by run wet-fox")


def test_another_machine_with_room_is_not_waited_for() -> None:
    one, two = ours("lab-0"), ours("lab-1")
    assert placed("", [one, two], [running("a", one, WHOLE)]) == Placed(two, WHOLE)


def test_who_waits_for_several_machines_is_told_of_the_first() -> None:
    fleet = [ours(f"lab-{n}") for n in range(3)]
    jobs = [running(f"fox-{n}", machine, WHOLE) for n, machine in enumerate(fleet)]
    assert placed("", fleet[:2], jobs) == Wait(
        "waits for lab-0: in use by run fox-0; or for another machine"
    )
    assert placed("", fleet, jobs) == Wait("waits for lab-0: in use by run fox-0; or for 2 others")


def test_this_computers_jobs_and_those_of_a_fleet_do_not_count_for_each_other() -> None:
    machine, local = ours(), here()
    assert placed("", [machine], [running("a", local)]) == Placed(machine, WHOLE)
    assert isinstance(placed("", [local], [running("a", machine, WHOLE)]), Placed)


def test_when_this_computer_is_full_a_fleets_machine_is_taken() -> None:
    machine, local = ours(), here()
    assert placed("", [local, machine], [running("a", local)]) == Placed(machine, WHOLE)


def test_a_machine_that_does_not_answer_is_waited_for_unless_another_has_room() -> None:
    silent = ours(availability=Availability.NOT_AVAILABLE)
    assert placed("", [silent]) == Wait("waits for lab-0: it does not answer at present")
    assert placed("", [silent, ours("lab-1")]) == Placed(ours("lab-1"), WHOLE)


def test_for_a_machine_that_does_not_answer_nobody_keeps_another_waiting() -> None:
    silent, other = ours(availability=Availability.NOT_AVAILABLE), ours("lab-1")
    first = queued("patient", "instance_name: lab-0", 5, silent, other)
    assert placed("", [other], queue=[first]) == Placed(other, WHOLE)


def test_a_machine_whose_image_could_not_be_had_is_passed_over() -> None:
    tried = a_job(tried=(TriedOffer(ours().id, "no such image"),))
    assert placed("", [ours(), ours("lab-1")], job=tried) == Placed(ours("lab-1"), WHOLE)
    assert placed("", [ours()], job=tried) == NoPlace("ssh/lab-0: no such image")


def test_only_named_fleets_and_machines_are_used() -> None:
    lab, attic = ours("lab-0"), ours("attic-0")
    assert placed("fleets: [attic]", [lab, attic]) == Placed(attic, WHOLE)
    assert placed("instance_name: attic-0", [lab, attic]) == Placed(attic, WHOLE)
    assert placed("fleets: [cellar]", [lab]) == NoPlace(
        "ssh/lab-0: fleets: cellar; lab-0 is in fleet lab"
    )


def test_reuse_takes_a_machine_of_a_fleet_and_rents_none() -> None:
    assert placed("creation_policy: reuse", [there(disk_gb=200), ours()]) == Placed(ours(), WHOLE)


# --- GPUs ---------------------------------------------------------------------------------------


def test_gpus_are_given_by_uuid_as_many_as_are_asked() -> None:
    machine = ours(gpus=gpus(T4, 4))
    answer = placed("resources: {gpu: 2}", [machine])
    assert answer == Placed(machine, replace(WHOLE, gpus=("GPU-0", "GPU-1")))


def test_of_a_machine_of_its_own_a_job_takes_all_gpus_that_it_may() -> None:
    machine = ours(gpus=gpus(T4, 4))
    for asked, number in (("1..", 4), ("..3", 3), ("0..", 4), ("0", 0)):
        answer = placed(f"resources: {{gpu: {asked}}}", [machine])
        assert isinstance(answer, Placed)
        assert len(answer.reservation.gpus) == number


def test_who_asks_for_no_gpu_is_given_none() -> None:
    assert placed("", [ours(gpus=gpus(T4, 4))]) == Placed(ours(gpus=gpus(T4, 4)), WHOLE)


# --- blocks -------------------------------------------------------------------------------------


def split(*, blocks: int = 4, count: int = 8, **facts: object) -> Offer:
    return ours(blocks=blocks, gpus=gpus(T4, count), **facts)  # type: ignore[arg-type]


def test_a_job_takes_the_fewest_blocks_that_will_do_and_is_limited_to_them() -> None:
    assert placed("", [split()]) == Placed(
        split(),
        Reservation(cpus=2.0, memory_gb=8.0, cpu_limit=2.0, memory_limit_gb=8.0, blocks=1),
    )


@pytest.mark.parametrize(
    ("asked", "blocks", "count"),
    [
        ("gpu: 1", 1, 1),
        ("gpu: 2", 1, 2),
        ("gpu: 1..", 1, 2),
        ("gpu: 3", 2, 3),
        ("gpu: 8", 4, 8),
        ("gpu: {total_memory: 40GB.., count: 1..}", 2, 4),
        ("cpu: 3..", 2, 0),
        ("memory: 20GB..", 3, 0),
        ("cpu: 8.., gpu: 1", 4, 1),
    ],
)
def test_blocks_are_counted_by_the_resource_that_needs_most(
    asked: str, blocks: int, count: int
) -> None:
    answer = placed(f"resources: {{{asked}}}", [split()])
    assert isinstance(answer, Placed)
    held = answer.reservation
    assert (held.blocks, len(held.gpus)) == (blocks, count)
    assert (held.cpus, held.memory_gb) == (2.0 * blocks, 8.0 * blocks)


def test_what_is_written_limits_a_job_below_its_blocks() -> None:
    answer = placed("resources: {cpu: 1, memory: 1GB..6GB}", [split()])
    assert isinstance(answer, Placed)
    assert (answer.reservation.cpu_limit, answer.reservation.memory_limit_gb) == (1, 6.0)


def test_who_takes_every_block_is_not_limited() -> None:
    answer = placed("resources: {gpu: 8}", [split()])
    assert isinstance(answer, Placed)
    assert (answer.reservation.cpu_limit, answer.reservation.memory_limit_gb) == (None, None)


def test_jobs_share_a_machine_block_by_block_and_gpu_by_gpu() -> None:
    held = Reservation(gpus=("GPU-0", "GPU-1"), blocks=1)
    answer = placed("resources: {gpu: 2}", [split()], [running("a", split(), held)])
    assert isinstance(answer, Placed)
    assert answer.reservation.gpus == ("GPU-2", "GPU-3")


def test_too_few_free_blocks_are_waited_for_with_the_numbers() -> None:
    jobs = [running(name, split(), Reservation(blocks=1)) for name in ("wet-fox", "red-cat")]
    jobs.append(running("owl", split(), Reservation(blocks=1)))
    assert placed("resources: {gpu: 3}", [split()], jobs) == Wait(
        "waits for 2 of the 4 blocks of lab-0: 3 are in use by run wet-fox, red-cat, owl"
    )
    assert isinstance(placed("resources: {gpu: 2}", [split()], jobs), Placed)


def test_more_blocks_are_taken_where_the_better_gpus_are_in_use() -> None:
    mixed = ours(blocks=4, gpus=(A100, *gpus(T4, 3)))
    asked = "resources: {gpu: {total_memory: 40GB.., count: 1..}}"
    first = placed(asked, [mixed])
    assert isinstance(first, Placed)
    assert (first.reservation.gpus, first.reservation.blocks) == (("GPU-a",), 1)
    second = placed(asked, [mixed], [running("a", mixed, first.reservation)])
    assert isinstance(second, Placed)
    assert (len(second.reservation.gpus), second.reservation.blocks) == (3, 3)


def test_a_model_in_use_is_waited_for_though_blocks_are_free() -> None:
    mixed = ours(blocks=4, gpus=(A100, *gpus(T4, 3)))
    other = running("wet-fox", mixed, Reservation(gpus=("GPU-a",), blocks=1))
    assert placed("resources: {gpu: A100}", [mixed], [other]) == Wait(
        "waits for 1 GPU of lab-0: 1 of 1 is in use by run wet-fox"
    )
    assert isinstance(placed("resources: {gpu: T4}", [mixed], [other]), Placed)


def test_who_was_placed_before_the_machine_was_split_has_all_of_it() -> None:
    before = running("a", ours(), Reservation(blocks=1))
    assert isinstance(placed("", [split()], [before]), Wait)
    older = running("a", split(), Reservation())
    assert isinstance(placed("", [split()], [older]), Wait)


def test_a_later_job_leaves_the_blocks_that_an_earlier_one_waits_for() -> None:
    other = running("a", split(), Reservation(blocks=2))
    first = queued("patient", "resources: {gpu: 6}", 5, split())
    assert placed("", [split()], [other], queue=[first]) == Wait(
        "waits for lab-0: run patient is before it"
    )
    urgent = "priority: 90"
    assert isinstance(placed(urgent, [split()], [other], queue=[first]), Placed)


def test_offers_stand_as_their_jobs_leave_them() -> None:
    half, full, silent = (
        replace(split(), instance=f"lab-{n}", id=f"ssh/lab-{n}", availability=Availability.BUSY)  # type: ignore[arg-type]
        for n in range(3)
    )
    silent = replace(silent, availability=Availability.NOT_AVAILABLE)
    jobs = [
        running("a", half, Reservation(blocks=3)),
        running("b", full, Reservation(blocks=4)),
        a_job("ended", status=JobStatus.DONE, offer=half, reservation=Reservation(blocks=4)),
    ]
    found = as_they_stand([half, full, silent, here(), there()], jobs)
    assert [str(offer.availability) for offer in found] == [
        "idle",
        "busy",
        "not_available",
        "available",
        "available",
    ]


# --- replicas -----------------------------------------------------------------------------------


def test_replicas_are_spread_over_the_machines_of_a_fleet() -> None:
    fleet = [replace(split(), instance=f"lab-{n}", id=f"ssh/lab-{n}") for n in range(2)]  # type: ignore[arg-type]
    jobs = [running("fox", fleet[0], Reservation(blocks=1))]
    answer = placed("port: 80", fleet, jobs, type="service")
    assert isinstance(answer, Placed)
    assert answer.offer.instance == "lab-1"
    jobs.append(running("fox", fleet[1], Reservation(blocks=1)))
    answer = placed("port: 80", fleet, jobs, type="service")
    assert isinstance(answer, Placed)
    assert answer.offer.instance == "lab-0"
    answer = placed("port: 80", [here(), *fleet], [], type="service")
    assert isinstance(answer, Placed)
    assert answer.offer == here()


# --- whatever is asked --------------------------------------------------------------------------

_MODELS = st.sampled_from([Gpu("T4", 16.0), Gpu("A100", 80.0), Gpu("L4", 24.0)])
_machines = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 16), st.lists(_MODELS, max_size=6)),
    min_size=1,
    max_size=3,
)
_asks = st.fixed_dictionaries(
    {"minute": st.integers(0, 9), "priority": st.sampled_from([0, 0, 50])},
    optional={
        "cpu": st.sampled_from(["1", "2..", "..3", "4"]),
        "memory": st.sampled_from(["4GB", "8GB..", "..2GB"]),
        "gpu": st.sampled_from(["1", "2", "1..", "..2", "0..", "A100", "24GB..", "A100,T4:2"]),
    },
)


def _fleet(machines: list[tuple[int, int, list[Gpu]]]) -> list[Offer]:
    fleet = []
    for number, (blocks, cpus, models) in enumerate(machines):
        own = tuple(replace(gpu, uuid=f"GPU-{number}-{n}") for n, gpu in enumerate(models))
        fleet.append(ours(f"lab-{number}", cpus=cpus, blocks=blocks, gpus=own))
    return fleet


@settings(max_examples=40, deadline=None)
@given(_machines, st.lists(_asks, min_size=1, max_size=10))
def test_whatever_is_asked_no_gpu_is_given_twice_and_no_more_blocks_than_there_are(
    machines: list[tuple[int, int, list[Gpu]]], asks: list[dict[str, object]]
) -> None:
    fleet = _fleet(machines)
    queue = []
    for number, ask in enumerate(asks):
        keys = [f"{key}: '{ask[key]}'" for key in ("cpu", "memory", "gpu") if key in ask]
        text = f"priority: {ask['priority']}\nresources: {{{', '.join(keys)}}}"
        queue.append(queued(f"run-{number}", text, int(str(ask["minute"])), *fleet))
    jobs: list[Job] = []
    started: list[Queued] = []
    while queue:
        answers = {
            one.job.run_name: place(one.job, one.wanted, fleet, jobs, max_jobs=9, queue=queue)
            for one in queue
        }
        hopeless = [one for one in queue if isinstance(answers[one.job.run_name], NoPlace)]
        queue = [one for one in queue if one not in hopeless]
        going = [one for one in queue if isinstance(answers[one.job.run_name], Placed)]
        if going:
            answer = answers[going[-1].job.run_name]  # whichever loop comes first
            assert isinstance(answer, Placed)
            jobs.append(running(going[-1].job.run_name, answer.offer, answer.reservation))
            started.append(going[-1])
            queue.remove(going[-1])
        elif queue:
            assert jobs, "nobody goes on though nothing is held"
            jobs.pop(0)  # somebody ends, so that others go on
        _check_shares(fleet, jobs)


def _check_shares(fleet: list[Offer], jobs: list[Job]) -> None:
    for machine in fleet:
        held = [
            job.reservation
            for job in jobs
            if job.offer is not None and job.offer.instance == machine.instance and job.reservation
        ]
        given = [uuid for one in held for uuid in one.gpus]
        assert len(given) == len(set(given))
        assert set(given) <= {gpu.uuid for gpu in machine.shape.gpus}
        assert sum(one.blocks for one in held) <= machine.blocks
        assert sum(one.cpus for one in held) <= machine.shape.cpus + 1e-6
        assert sum(one.memory_gb for one in held) <= machine.shape.memory_gb + 1e-6
        for one in held:
            assert len(one.gpus) <= len(machine.shape.gpus) * one.blocks // machine.blocks
