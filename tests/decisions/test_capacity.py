"""Whether a job gets a place now, what it holds there, and what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_engine.decisions.capacity import NoPlace, Placed, Queued, Wait, place
from dstack_engine.records.jobs import Job, JobStatus, Reservation, TriedOffer
from dstack_engine.records.offers import Availability, Gpu, HostKind, Offer, OfferId
from tests.decisions.samples import A100, T4, a_job, gpus, here, running, there, wants

DOCKER, PROCESS = here(), here(HostKind.PROCESS)


def placed(
    text: str = "",
    offers: Sequence[Offer] = (DOCKER, PROCESS),
    jobs: Sequence[Job] = (),
    *,
    job: Job | None = None,
    max_jobs: int = 10,
    queue: Sequence[Queued] = (),
) -> Placed | Wait | NoPlace:
    """Place a job that asks *text*, submitted ten minutes past noon."""
    ours = job or a_job(minute=10)
    return place(ours, wants(text), offers, jobs, max_jobs=max_jobs, queue=queue)


def queued(run: str, text: str, minute: int, *offers: Offer) -> Queued:
    return Queued(a_job(run, minute=minute), wants(text), offers or (DOCKER, PROCESS))


# --- what a job holds -------------------------------------------------------------------------


def test_the_first_offer_with_room_is_taken_and_nothing_unwritten_is_reserved() -> None:
    assert placed() == Placed(DOCKER, Reservation())


def test_written_lower_bounds_are_reserved_and_upper_ones_are_limits() -> None:
    answer = placed("resources: {cpu: 1..2, memory: 4GB, shm_size: 1GB}")
    assert answer == Placed(
        DOCKER,
        Reservation(cpus=1.0, memory_gb=4.0, cpu_limit=2, memory_limit_gb=4.0, shm_gb=1.0),
    )


def test_an_open_range_reserves_without_a_limit() -> None:
    assert placed("resources: {cpu: 2.., memory: ..4GB}") == Placed(
        DOCKER, Reservation(cpus=2.0, memory_limit_gb=4.0)
    )


def test_sizes_without_end_or_sense_are_no_limits() -> None:
    assert placed("resources: {memory: 4GB..inf, shm_size: nan}") == Placed(
        DOCKER, Reservation(memory_gb=4.0)
    )
    assert placed("resources: {cpu: 0}", [DOCKER]) == NoPlace(
        "local/docker: asks 0 CPUs; this computer has 2"
    )


def test_gpus_are_assigned_by_uuid_as_many_as_asked() -> None:
    machine = here(gpus=gpus(A100, 4))
    assert placed("resources: {gpu: 2..}", [machine]) == Placed(
        machine, Reservation(gpus=("GPU-0", "GPU-1"))
    )


def test_of_unlike_gpus_the_smallest_that_fits_is_assigned() -> None:
    machine = here(gpus=(A100, T4))
    assert placed("resources: {gpu: 1}", [machine]) == Placed(machine, Reservation(gpus=("GPU-t",)))


def test_total_memory_takes_as_many_gpus_as_it_needs() -> None:
    machine = here(gpus=gpus(T4, 4))
    answer = placed("resources: {gpu: {count: 1.., total_memory: 40GB..}}", [machine])
    assert answer == Placed(machine, Reservation(gpus=("GPU-0", "GPU-1", "GPU-2")))


def test_a_rented_machine_is_the_jobs_own() -> None:
    cloud = there(gpus=(T4,))
    assert placed("resources: {gpu: T4, cpu: 4.., shm_size: 1GB}", [cloud]) == Placed(
        cloud, Reservation(shm_gb=1.0)
    )


# --- waiting ----------------------------------------------------------------------------------


def test_a_gpu_in_use_is_waited_for() -> None:
    machine = here(gpus=(T4,))
    other = running("wet-fox-1", machine, Reservation(gpus=("GPU-t",)))
    assert placed("resources: {gpu: 1}", [machine], [other]) == Wait(
        "waits for 1 GPU: 1 of 1 is in use by run wet-fox-1"
    )


def test_a_free_gpu_beside_one_in_use_is_taken() -> None:
    machine = here(gpus=gpus(T4, 2))
    other = running("a", machine, Reservation(gpus=("GPU-0",)))
    assert placed("resources: {gpu: 1}", [machine], [other]) == Placed(
        machine, Reservation(gpus=("GPU-1",))
    )


def test_gpus_held_by_plain_processes_are_not_free_for_docker() -> None:
    docker, process = here(gpus=(T4,)), here(HostKind.PROCESS, gpus=(T4,))
    other = running("a", process, Reservation(gpus=("GPU-t",)))
    assert isinstance(placed("resources: {gpu: 1}", [docker, process], [other]), Wait)


def test_cpus_that_are_reserved_are_waited_for() -> None:
    others = [running(name, DOCKER, Reservation(cpus=1.0)) for name in "ab"]
    assert placed("resources: {cpu: 1..}", jobs=others) == Wait(
        "waits for 1 CPU: 2 of 2 are reserved by a, b"
    )


def test_memory_that_is_reserved_is_waited_for() -> None:
    other = running("a", PROCESS, Reservation(memory_gb=12.0))
    assert placed("resources: {memory: 8GB..}", jobs=[other]) == Wait(
        "waits for 8GB of memory: 12GB of 16GB are reserved by a"
    )


def test_who_asks_for_nothing_need_not_wait_for_it() -> None:
    other = running("a", DOCKER, Reservation(cpus=2.0, memory_gb=16.0))
    assert isinstance(placed(jobs=[other]), Placed)


def test_more_jobs_than_may_run_at_once_wait() -> None:
    others = [running(name, DOCKER) for name in "ab"]
    assert placed(jobs=others, max_jobs=2) == Wait(
        "waits for its turn: 2 of 2 jobs run on this computer (`max_jobs` in config.yml)"
    )


def test_ended_and_waiting_jobs_and_those_elsewhere_hold_nothing_here() -> None:
    held = Reservation(cpus=2.0)
    others = [
        running("elsewhere", there(), held),
        a_job("waiting"),
        a_job("ended", status=JobStatus.DONE, offer=DOCKER, reservation=held),
    ]
    assert isinstance(placed("resources: {cpu: 2..}", jobs=others, max_jobs=1), Placed)


def test_a_machine_of_ours_that_is_busy_is_waited_for() -> None:
    busy = there(availability=Availability.BUSY)
    assert placed(offers=[busy]) == Wait("waits for aws/eu-west-1/g5: it is in use")


def test_a_port_that_another_plain_process_listens_on_is_waited_for() -> None:
    other = running("web", PROCESS, None, (9000, 8080))
    assert placed("ports: [8080]", [PROCESS], [other]) == Wait(
        "waits for port 8080: in use by run web"
    )


def test_containers_have_ports_of_their_own() -> None:
    other = running("web", PROCESS, None, (8080, 8080))
    assert placed("ports: ['9000:8080']", [DOCKER], [other]) == Placed(DOCKER, Reservation())


# --- the queue --------------------------------------------------------------------------------


def test_a_later_job_does_not_overtake_one_that_waits_for_the_same() -> None:
    machine = here(gpus=gpus(T4, 2))
    other = running("a", machine, Reservation(gpus=("GPU-0",)))
    first = queued("patient", "resources: {gpu: 2}", 5, machine)
    assert placed("resources: {gpu: 1}", [machine], [other], queue=[first]) == Wait(
        "waits for 1 GPU: run patient is before it"
    )


def test_a_later_job_that_asks_for_something_else_goes_on() -> None:
    machine = here(gpus=(T4,))
    other = running("a", machine, Reservation(gpus=("GPU-t",)))
    first = queued("patient", "resources: {gpu: 1}", 5, machine)
    answer = placed("resources: {cpu: 1..}", [machine], [other], queue=[first])
    assert isinstance(answer, Placed)


def test_an_earlier_job_that_fits_takes_its_part_first() -> None:
    first = queued("early", "resources: {cpu: 2..}", 5)
    assert placed("resources: {cpu: 1..}", queue=[first]) == Wait(
        "waits for 1 CPU: 2 of 2 are reserved by early"
    )


def test_an_earlier_job_that_will_never_fit_holds_nobody_up() -> None:
    first = queued("hopeless", "resources: {cpu: 64..}", 5)
    assert isinstance(placed("resources: {cpu: 2..}", queue=[first]), Placed)


def test_later_jobs_and_the_job_itself_are_not_before_it() -> None:
    job = a_job(minute=10)
    queue = [queued("late", "resources: {cpu: 2..}", 11), Queued(job, wants(), (DOCKER,))]
    assert isinstance(placed("resources: {cpu: 2..}", job=job, queue=queue), Placed)


def test_a_higher_priority_goes_first_however_late_it_came() -> None:
    urgent = queued("urgent", "priority: 50\nresources: {cpu: 2..}", 11)
    assert isinstance(placed("resources: {cpu: 1..}", queue=[urgent]), Wait)
    assert isinstance(placed("priority: 60\nresources: {cpu: 1..}", queue=[urgent]), Placed)


def test_jobs_are_started_in_their_order_when_one_place_is_left() -> None:
    queue = [queued(name, "", minute) for name, minute in (("a", 1), ("b", 2), ("c", 3))]
    answers = {
        one.job.run_name: place(one.job, one.wanted, one.offers, [], max_jobs=2, queue=queue)
        for one in queue
    }
    assert [isinstance(answers[name], Placed) for name in "abc"] == [True, True, False]


# --- no place ---------------------------------------------------------------------------------


def test_an_offer_that_was_tried_is_passed_over() -> None:
    job = a_job(tried=(TriedOffer(DOCKER.id, "no such image: alpine"),))
    assert placed(job=job) == Placed(PROCESS, Reservation())


def test_when_every_offer_was_tried_each_is_told_with_its_reason() -> None:
    job = a_job(tried=(TriedOffer(DOCKER.id, "no such image: alpine"),))
    assert placed("image: alpine", job=job) == NoPlace(
        "local/docker: no such image: alpine; "
        "local/process: asks the image alpine; a plain process has no image"
    )


def test_a_tried_offer_that_is_gone_meanwhile_is_still_told() -> None:
    job = a_job(tried=(TriedOffer(OfferId("aws/gone"), "sold out"),))
    assert placed(offers=[], job=job) == NoPlace("aws/gone: sold out")
    assert placed(offers=[]) == NoPlace("there is no offer to try")


def test_a_gpu_that_was_there_at_submit_and_is_gone_now_is_said() -> None:
    assert placed("resources: {gpu: 1}", [DOCKER]) == NoPlace(
        "local/docker: asks 1 GPU; this computer has no GPU"
    )


def test_what_cannot_be_had_at_present_is_no_place() -> None:
    gone = there(availability=Availability.NOT_AVAILABLE)
    assert placed(offers=[gone]) == NoPlace("aws/eu-west-1/g5: cannot be had at present")


def test_a_docker_engine_that_is_away_is_waited_for_unless_the_next_offer_has_room() -> None:
    away = replace(DOCKER, availability=Availability.NOT_AVAILABLE)
    assert placed(offers=[away]) == Wait("waits for local/docker: it does not answer at present")
    assert placed(offers=[away, PROCESS]) == Placed(PROCESS, Reservation())


def test_fifty_waiting_jobs_are_all_placed_or_wait_and_nothing_is_given_twice() -> None:
    machine = here(cpus=8, gpus=gpus(Gpu("T4", 16.0), 3))
    queue = [queued(f"run-{n}", "resources: {gpu: 1}", n, machine) for n in range(50)]
    answers = [place(q.job, q.wanted, q.offers, [], max_jobs=50, queue=queue) for q in queue]
    given = [a.reservation.gpus for a in answers if isinstance(a, Placed)]
    assert given == [("GPU-0",), ("GPU-1",), ("GPU-2",)]
    assert sum(isinstance(answer, Wait) for answer in answers) == 47


_asks = st.fixed_dictionaries(
    {"minute": st.integers(0, 9), "priority": st.sampled_from([0, 50])},
    optional={
        "cpu": st.sampled_from(["1", "2..", "..3", "4"]),
        "memory": st.sampled_from(["4GB", "8GB..", "..2GB"]),
        "gpu": st.sampled_from(["1", "2", "1..", "..2", "0..", "A100", "16GB"]),
    },
)


@settings(max_examples=40, deadline=None)
@given(st.lists(_asks, min_size=1, max_size=8), st.integers(1, 6))
def test_whatever_is_asked_nothing_is_given_twice_and_somebody_goes_on(
    asks: list[dict[str, object]], max_jobs: int
) -> None:
    machine = here(cpus=4, gpus=(*gpus(T4, 2), A100))
    queue = []
    for number, ask in enumerate(asks):
        resources = ", ".join(
            f"{key}: '{ask[key]}'" for key in ("cpu", "memory", "gpu") if key in ask
        )
        text = f"priority: {ask['priority']}\nresources: {{{resources}}}"
        queue.append(queued(f"run-{number}", text, int(str(ask["minute"])), machine))
    jobs: list[Job] = []
    for one in queue:
        answer = place(one.job, one.wanted, one.offers, jobs, max_jobs=max_jobs, queue=queue)
        if isinstance(answer, Placed):
            jobs.append(running(one.job.run_name, machine, answer.reservation))
            queue = [other for other in queue if other is not one]
    held = [job.reservation or Reservation() for job in jobs]
    given_gpus = [uuid for reservation in held for uuid in reservation.gpus]
    assert jobs
    assert len(jobs) <= max_jobs
    assert len(given_gpus) == len(set(given_gpus))
    assert sum(reservation.cpus for reservation in held) <= 4
    assert sum(reservation.memory_gb for reservation in held) <= 16


def test_plain_replicas_of_one_port_wait_for_each_other_and_are_told_how_not_to() -> None:
    wanted, offers = wants("port: 8000", type="service"), [here(HostKind.PROCESS)]
    other = running("web", offers[0], None, (8000, 8000))
    found = place(a_job("web"), wanted, offers, [other], max_jobs=9)
    assert isinstance(found, Wait)
    assert found.reason.startswith("waits for port 8000: in use by run web. ")
    assert "$DSTACK_SERVICE_PORT" in found.reason


def test_replicas_that_ask_for_their_port_or_are_in_docker_wait_for_none() -> None:
    asks = wants("port: 8000", type="service", commands="[serve $DSTACK_SERVICE_PORT]")
    other = running("web", here(HostKind.PROCESS), None, (8000, 8000))
    for wanted, offer in [
        (asks, here(HostKind.PROCESS)),
        (wants("port: 8000", type="service"), here(HostKind.DOCKER)),
    ]:
        assert isinstance(place(a_job("web"), wanted, [offer], [other], max_jobs=9), Placed)
