"""Runs of several nodes: machines of one fleet, all of them at once or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_engine.decisions.capacity import NoPlace, Placed, Queued, Wait, place
from dstack_engine.decisions.clusters import why_not_yet
from dstack_engine.records.jobs import Job, JobId, JobStatus, Reservation, TriedOffer
from dstack_engine.records.offers import Availability, Offer
from dstack_engine.records.routes import Route
from tests.decisions.samples import NOON, a_job, ours, running, wants

LAB = [ours(f"lab-{n}") for n in range(3)]
WHOLE = Reservation(cpus=8.0, memory_gb=32.0, blocks=1)


def nodes(run: str, count: int, *, minute: int = 10) -> list[Job]:
    """Return the jobs of a run of so many nodes, submitted at that minute."""
    job = a_job(run, minute=minute)
    return [replace(job, id=JobId(f"{run}-{n}-0/1"), node=n) for n in range(count)]


def on(machine: Offer, job: Job, held: Reservation = WHOLE) -> Job:
    return replace(
        job, status=JobStatus.PROVISIONING, offer=machine, instance=machine.instance,
        reservation=held,
    )  # fmt: skip


def queued(job: Job, offers: Sequence[Offer], text: str) -> Queued:
    return Queued(job, wants(text), tuple(offers))


def placed(
    job: Job,
    offers: Sequence[Offer] = LAB,
    jobs: Sequence[Job] = (),
    *,
    text: str = "nodes: 3",
    queue: Sequence[Queued] = (),
) -> Placed | Wait | NoPlace:
    return place(job, wants(text), offers, jobs, max_jobs=9, queue=queue)


def test_the_first_node_is_placed_once_there_is_room_for_all() -> None:
    first, *_ = nodes("fox", 3)
    assert placed(first) == Placed(LAB[0], WHOLE)
    assert placed(first, jobs=[running("owl", LAB[1], WHOLE)]) == Wait(
        "waits for 3 machines of fleet lab at once: 2 of 3 have room; lab-1: in use by run owl"
    )


def test_the_others_wait_for_the_first_and_then_follow_it_each_to_its_own_machine() -> None:
    first, second, third = nodes("fox", 3)
    assert placed(second) == Wait("waits for node 0: all nodes are placed at once")
    jobs = [on(LAB[0], first)]
    assert placed(second, jobs=jobs) == Placed(LAB[1], WHOLE)
    jobs.append(on(LAB[1], second))
    assert placed(third, jobs=jobs) == Placed(LAB[2], WHOLE)


def test_nodes_go_to_one_fleet_though_another_comes_first() -> None:
    attic = [ours("attic-0"), ours("attic-1")]
    first, second = nodes("fox", 2)
    offers = [attic[0], LAB[0], LAB[1], attic[1]]
    busy = [running("owl", attic[1], WHOLE)]
    assert placed(first, offers, busy, text="nodes: 2") == Placed(LAB[0], WHOLE)
    jobs = [*busy, on(LAB[0], first)]
    assert placed(second, offers, jobs, text="nodes: 2") == Placed(LAB[1], WHOLE)


def test_the_blocks_of_one_machine_are_no_two_nodes() -> None:
    split = replace(LAB[0], blocks=4)
    assert placed(nodes("fox", 2)[0], [split], text="nodes: 2") == NoPlace(
        "asks 2 nodes; fleet lab has 1 machine that fits"
    )
    both = [split, replace(LAB[1], blocks=4)]
    first, second = nodes("fox", 2)
    jobs = [on(split, first, Reservation(blocks=1))]
    answer = placed(second, both, jobs, text="nodes: 2")
    assert isinstance(answer, Placed)
    assert answer.offer.instance == "lab-1"


def test_too_few_machines_are_no_place_and_one_that_is_silent_is_waited_for() -> None:
    first = nodes("fox", 3)[0]
    assert placed(first, LAB[:2]) == NoPlace("asks 3 nodes; fleet lab has 2 machines that fit")
    silent = replace(LAB[2], availability=Availability.NOT_AVAILABLE)
    assert placed(first, [*LAB[:2], silent]) == Wait(
        "waits for 3 machines of fleet lab at once: 2 of 3 have room; "
        "lab-2: it does not answer at present"
    )


def test_a_node_whose_machine_will_not_do_has_another_of_the_same_fleet() -> None:
    first, second = nodes("fox", 2)
    second = replace(second, tried=(TriedOffer(LAB[1].id, "no such image"),))
    jobs, text = [on(LAB[0], first)], "nodes: 2"
    assert placed(second, LAB, jobs, text=text) == Placed(LAB[2], WHOLE)
    assert placed(second, LAB[:2], jobs, text=text) == NoPlace(
        "fleet lab has no other machine for node 1 that fits"
    )


# --- the queue ----------------------------------------------------------------------------------


def test_nodes_whose_first_has_a_place_go_before_everybody() -> None:
    first, second = nodes("fox", 2, minute=30)
    jobs, late = [on(LAB[0], first)], queued(second, LAB[:2], "nodes: 2")
    early = a_job("early", minute=1)
    answer = placed(early, [LAB[1]], jobs, text="priority: 100", queue=[late])
    assert answer == Wait("waits for lab-1: in use by run fox")
    assert placed(early, [LAB[2]], jobs, text="", queue=[late]) == Placed(LAB[2], WHOLE)


def test_a_later_job_does_not_take_what_several_nodes_wait_for() -> None:
    cluster = [queued(job, LAB, "nodes: 3") for job in nodes("fox", 3, minute=5)]
    busy = [running("owl", LAB[0], WHOLE)]
    assert placed(a_job("late", minute=9), LAB, busy, text="", queue=cluster) == Wait(
        "waits for lab-0: in use by run owl; or for 2 others"
    )
    assert placed(a_job("late", minute=9), LAB[1:], busy, text="", queue=cluster) == Wait(
        "waits for lab-1: run fox is before it; or for another machine"
    )
    assert isinstance(
        placed(a_job("early", minute=1), LAB[1:], busy, text="", queue=cluster), Placed
    )


def test_nodes_that_fit_take_all_their_machines_before_a_later_job() -> None:
    cluster = [queued(job, LAB, "nodes: 2") for job in nodes("fox", 2, minute=5)]
    late = a_job("late", minute=9)
    assert placed(late, LAB, text="", queue=cluster) == Placed(LAB[2], WHOLE)
    assert isinstance(placed(late, LAB[:2], text="", queue=cluster), Wait)


def test_several_nodes_that_wait_for_a_silent_machine_keep_nobody_waiting() -> None:
    offers = [*LAB[:2], replace(LAB[2], availability=Availability.NOT_AVAILABLE)]
    cluster = [queued(job, offers, "nodes: 3") for job in nodes("fox", 3, minute=5)]
    late = a_job("late", minute=9)
    assert placed(late, offers, text="", queue=cluster) == Placed(LAB[0], WHOLE)


def test_two_runs_of_several_nodes_never_hold_each_other_up() -> None:
    runs = [
        [queued(job, LAB, "nodes: 2") for job in nodes(name, 2, minute=minute)]
        for name, minute in (("fox", 1), ("owl", 2))
    ]
    queue = [one for run in runs for one in run]
    answers = {one.job.id: placed(one.job, text="nodes: 2", queue=queue) for one in queue}
    assert [job for job, answer in answers.items() if isinstance(answer, Placed)] == ["fox-0-0/1"]


# --- the machine's own ports --------------------------------------------------------------------


def test_nodes_of_two_runs_on_one_machine_do_not_listen_on_the_same_port() -> None:
    split = [replace(machine, blocks=2) for machine in LAB[:2]]
    held = Reservation(blocks=1)
    others = [on(machine, job, held) for machine, job in zip(split, nodes("owl", 2), strict=True)]
    others[0] = replace(others[0], routes=(Route(9000, 8080),))
    text = "nodes: 2\nports: ['*:8080']"
    assert placed(nodes("fox", 2)[0], split, others, text=text) == Wait(
        "waits for 2 machines of fleet lab at once: 1 of 2 has room; port 8080: in use by run owl"
    )
    assert isinstance(placed(nodes("fox", 2)[0], split, others, text="nodes: 2"), Placed)
    assert isinstance(placed(a_job(), split, others, text="ports: ['*:8080']"), Placed)


# --- who may start ------------------------------------------------------------------------------


def prepared(job: Job) -> Job:
    return replace(on(LAB[job.node], job), status=JobStatus.PULLING, prepared=True)


def started(job: Job) -> Job:
    return replace(prepared(job), status=JobStatus.RUNNING, started_at=NOON)


def test_no_node_starts_before_all_are_prepared() -> None:
    first, second, third = nodes("fox", 3)
    mine = prepared(first)
    waits = "waits for node 1: all nodes start together"
    assert why_not_yet(mine, [mine], 3, "any") == waits
    for status in (JobStatus.SUBMITTED, JobStatus.PROVISIONING, JobStatus.PULLING):
        late = replace(on(LAB[1], second), status=status)
        assert why_not_yet(mine, [mine, late, prepared(third)], 3, "any") == waits
    all_of_them = [mine, prepared(second), prepared(third)]
    assert why_not_yet(mine, all_of_them, 3, "any") is None
    assert why_not_yet(mine, [mine, started(second), prepared(third)], 3, "any") is None


def test_no_node_starts_beside_one_that_has_failed() -> None:
    first, second = nodes("fox", 2)
    failed = replace(started(second), status=JobStatus.FAILED)
    assert why_not_yet(prepared(first), [prepared(first), failed], 2, "any") is not None


def test_the_master_starts_first_where_that_is_asked() -> None:
    first, second = (prepared(job) for job in nodes("fox", 2))
    assert why_not_yet(first, [first, second], 2, "master-first") is None
    assert why_not_yet(second, [first, second], 2, "master-first") == (
        "waits for node 0, which starts first"
    )
    for begun in (started(first), replace(started(first), status=JobStatus.DONE)):
        assert why_not_yet(second, [begun, second], 2, "master-first") is None


def test_the_workers_start_first_where_that_is_asked() -> None:
    first, second, third = (prepared(job) for job in nodes("fox", 3))
    assert why_not_yet(second, [first, second, third], 3, "workers-first") is None
    assert why_not_yet(first, [first, started(second), third], 3, "workers-first") == (
        "waits for node 2: the others start first"
    )
    both = [first, started(second), started(third)]
    assert why_not_yet(first, both, 3, "workers-first") is None


# --- whatever is asked --------------------------------------------------------------------------

_runs = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 9), st.sampled_from([0, 0, 50])),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(_runs, st.integers(1, 4), st.integers(0, 3), st.randoms(use_true_random=False))
def test_whatever_comes_nodes_are_placed_together_and_everybody_in_the_end(
    runs: list[tuple[int, int, int]], lab: int, attic: int, chance: object
) -> None:
    fleet = [ours(f"lab-{n}") for n in range(lab)] + [ours(f"attic-{n}") for n in range(attic)]
    queue, wishes = [], {}
    for number, (count, minute, priority) in enumerate(runs):
        text = f"nodes: {count}\npriority: {priority}"
        wishes[f"run-{number}"] = count
        jobs = nodes(f"run-{number}", count, minute=minute)
        queue += [queued(job, fleet, text) for job in jobs]
    active: list[Job] = []
    begun: list[str] = []
    for _ in range(200):
        if not queue:
            break
        answers = [
            (o, place(o.job, o.wanted, fleet, active, max_jobs=9, queue=queue)) for o in queue
        ]
        gone = {one.job.run_name for one, answer in answers if isinstance(answer, NoPlace)}
        assert all(wishes[name] > max(lab, attic) for name in gone)
        queue = [one for one in queue if one.job.run_name not in gone]
        going = [(o, a) for o, a in answers if isinstance(a, Placed) and o in queue]
        if going:
            one, answer = chance.choice(going)  # type: ignore[attr-defined]
            active.append(on(answer.offer, one.job, answer.reservation))
            queue.remove(one)
            begun.append(one.job.run_name)
        else:
            active = _end_one(active, queue)
        _check_nodes(active)
    assert not queue, "somebody waits for ever"


def _end_one(active: list[Job], queue: list[Queued]) -> list[Job]:
    """End a run all of whose nodes have a place; there must be one, or nobody ever goes on."""
    waiting = {one.job.run_name for one in queue}
    whole = [job.run_name for job in active if job.run_name not in waiting]
    assert whole or not queue, "runs that are half placed wait for each other"
    return [job for job in active if not whole or job.run_name != whole[0]]


def _check_nodes(active: list[Job]) -> None:
    used = [job.instance for job in active]
    assert len(used) == len(set(used))
    for job in active:
        fleets = {
            other.offer.fleet for other in active if other.run_id == job.run_id and other.offer
        }
        assert len(fleets) == 1
