"""How a service moves on: its replicas made, replaced, drained and ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_engine.decisions.crashes import ATTEMPTS_KEPT, past_attempts
from dstack_engine.decisions.deployments import refuse_unsupported, renew
from dstack_engine.decisions.services import (
    DRAIN_TIME,
    STOP_DRAIN_TIME,
    advance_service,
    drain_time,
    first_state,
    is_being_replaced,
    shows,
    wish_for_replica,
)
from dstack_engine.errors import Conflict, Refused
from dstack_engine.records.jobs import Job, JobReason, JobStatus
from dstack_engine.records.publication import (
    Load,
    ReplicaReport,
    ReplicaState,
    ServiceReport,
)
from dstack_engine.records.runs import Run, RunReason, RunStatus
from dstack_engine.spec.configurations import ServiceConfiguration
from dstack_engine.spec.parsing import configuration_from_dict
from tests.decisions.samples import NOON, a_run

SECOND = timedelta(seconds=1)


def service(**written: object) -> ServiceConfiguration:
    whole = {"type": "service", "name": "fox", "commands": ["serve"], "port": 80, **written}
    configuration = configuration_from_dict(whole)
    assert isinstance(configuration, ServiceConfiguration)
    return configuration


@dataclass
class Story:
    """A service in virtual time: jobs do what the story says, the gateway what `ready` says."""

    run: Run
    jobs: dict[str, Job] = field(default_factory=dict)
    now: datetime = NOON
    ready: set[str] = field(default_factory=set)
    answering: dict[str, int] = field(default_factory=dict)
    load: dict[str, object] = field(default_factory=dict)
    deaf: bool = False

    def step(self, after: timedelta = SECOND) -> Run:
        """Let time pass, and take one step of the service."""
        self.now += after
        found = advance_service(self.run, list(self.jobs.values()), self._report(), self.now)
        self.run = found.run
        self.jobs.update((job.id, job) for job in found.new_jobs)
        for job in self.jobs.values():
            wish = wish_for_replica(self.run, job)
            if wish is not None and not job.finished:
                self.jobs[job.id] = self._ended(job, wish)
        return self.run

    def start(self, *replicas: int, ready: bool = True) -> None:
        """Let every job run that has not begun (or those of *replicas*), and be ready."""
        for job in self.jobs.values():
            if job.status is JobStatus.SUBMITTED and (not replicas or job.replica in replicas):
                self.jobs[job.id] = replace(
                    job, status=JobStatus.RUNNING, since=self.now, started_at=self.now, waiting=None
                )
                if ready:
                    self.ready.add(job.id)

    def crash(self, job: str, reason: JobReason = JobReason.CONTAINER_EXITED_WITH_ERROR) -> None:
        self.jobs[job] = replace(self._ended(self.jobs[job], reason), detail="exit code 3")

    @property
    def living(self) -> list[str]:
        """Jobs that are not finished."""
        return [job.id for job in self.jobs.values() if not job.finished]

    @property
    def leaving(self) -> list[str]:
        assert self.run.service is not None
        return [one.job for one in self.run.service.retiring]

    def _ended(self, job: Job, reason: JobReason) -> Job:
        return replace(
            job, status=reason.final_status, reason=reason, since=self.now, finished_at=self.now
        )

    def _report(self) -> ServiceReport | None:
        if self.deaf:
            return None
        leaving = self.leaving if self.run.service else []
        replicas = tuple(
            ReplicaReport(
                job.id,
                ReplicaState.DRAINING
                if job.id in leaving
                else ReplicaState.READY
                if job.id in self.ready
                else ReplicaState.PROBING,
                self.answering.get(job.id, 0),
            )
            for job in self.jobs.values()
            if job.status is JobStatus.RUNNING
        )
        report = ServiceReport(self.run.name, self.run.id, replicas)
        return replace(report, **self.load)  # type: ignore[arg-type]


def a_story(**written: object) -> Story:
    wanted = service(**written)
    return Story(a_run(wanted, service=first_state(wanted)))


def a_running(**written: object) -> Story:
    story = a_story(**written)
    story.step()
    story.start()
    story.step()
    return story


def update(story: Story, **written: object) -> None:
    wanted = service(**written)
    renewed = renew(story.run, a_run(wanted), offers_named=False)
    assert renewed is not None
    story.run = renewed


# --- replicas ------------------------------------------------------------------------------------


def test_a_new_service_gets_its_replicas_and_follows_the_best_of_them() -> None:
    story = a_story(replicas=3)
    assert story.step().status is RunStatus.SUBMITTED
    assert story.living == ["fox-0-0/1", "fox-0-1/1", "fox-0-2/1"]
    story.start(1)
    run = story.step()
    assert (run.status, run.started_at) == (RunStatus.RUNNING, story.now - SECOND)


def test_a_service_that_begins_with_none_is_pending_and_is_woken_by_a_request() -> None:
    story = a_story(replicas="0..2", scaling={"metric": "rps", "target": 10})
    assert story.step().status is RunStatus.PENDING
    assert story.jobs == {}
    story.load = {"held": 1, "loads": (Load(60, 1),)}
    run = story.step()
    assert run.status is RunStatus.SUBMITTED
    assert story.living == ["fox-0-0/1"]


@pytest.mark.parametrize(
    "reason",
    [
        JobReason.CONTAINER_EXITED_WITH_ERROR,
        JobReason.DONE_BY_RUNNER,
        JobReason.KILLED_BY_SIGNAL,
        JobReason.INTERRUPTED,
        JobReason.NO_CAPACITY,
        JobReason.IMAGE_UNAVAILABLE,
    ],
)
def test_a_replica_that_ended_for_whatever_reason_is_started_again(reason: JobReason) -> None:
    story = a_running(replicas=2)
    story.crash("fox-0-1/1", reason)
    run = story.step(timedelta(0))
    assert run.status is RunStatus.RUNNING
    assert run.service is not None
    (rest,) = run.service.resting
    assert (rest.replica, rest.until) == (1, story.now + SECOND)
    assert rest.why == f"{reason.sentence}: exit code 3"
    run = story.step()
    assert story.living == ["fox-0-0/1", "fox-0-1/2"]
    assert run.service is not None
    assert run.service.resting == ()


def test_the_pause_grows_with_every_crash_and_is_short_again_after_a_good_minute() -> None:
    story = a_running()
    pauses = []
    for attempt in range(1, 6):
        story.crash(f"fox-0-0/{attempt}")
        run = story.step(timedelta(0))
        assert run.status is RunStatus.PENDING
        assert run.retry_at is not None
        pauses.append((run.retry_at - story.now).total_seconds())
        story.step(run.retry_at - story.now)
        story.start()
    assert pauses == [1, 5, 15, 30, 60]
    story.step(timedelta(minutes=1))
    story.crash("fox-0-0/6")
    run = story.step(timedelta(0))
    assert run.retry_at == story.now + SECOND


def test_a_replica_that_is_just_ending_is_not_made_twice() -> None:
    story = a_running()
    story.jobs["fox-0-0/1"] = replace(
        story.jobs["fox-0-0/1"],
        status=JobStatus.TERMINATING,
        reason=JobReason.CONTAINER_EXITED_WITH_ERROR,
    )
    story.step()
    assert list(story.jobs) == ["fox-0-0/1"]


def test_a_clock_set_back_makes_no_replica_rest_until_it_is_there_again() -> None:
    story = a_running()
    story.crash("fox-0-0/1")
    story.step(timedelta(hours=-1))
    assert story.living == ["fox-0-0/2"]


def test_max_duration_ends_the_service_as_it_does_a_task() -> None:
    story = a_running(replicas=2, max_duration="1h")
    story.crash("fox-0-1/1", JobReason.MAX_DURATION_EXCEEDED)
    run = story.step()
    assert run.reason is RunReason.MAX_DURATION_EXCEEDED
    assert story.jobs["fox-0-0/1"].reason is JobReason.TERMINATED_BY_SERVER
    assert story.step().status is RunStatus.TERMINATED


# --- scaling -------------------------------------------------------------------------------------


def test_those_that_have_got_the_least_far_go_first_then_the_last_numbers() -> None:
    scaling = {"metric": "rps", "target": 1, "scale_down_delay": 0}
    story = a_story(replicas="1..5", scaling=scaling)
    assert story.run.service is not None
    story.run = replace(story.run, service=replace(story.run.service, desired=5))
    story.step()
    story.start(0, 1, 3)
    story.jobs["fox-0-2/1"] = replace(story.jobs["fox-0-2/1"], status=JobStatus.PULLING)
    gone: list[str] = []
    for arrivals in (240, 180, 120, 60):
        story.load = {"loads": (Load(60, arrivals),)}
        story.step()
        gone += story.leaving
        story.step()
        story.step()
    assert gone == ["fox-0-4/1", "fox-0-2/1", "fox-0-3/1", "fox-0-1/1"]
    reasons = {job.reason for job in story.jobs.values() if job.finished}
    assert reasons == {JobReason.SCALED_DOWN}


def test_a_replica_that_is_answering_is_ended_only_when_it_has() -> None:
    story = a_running(replicas=2)
    story.answering["fox-0-1/1"] = 2
    update(story, replicas=1)
    story.step()
    story.step(timedelta(minutes=4))
    assert "fox-0-1/1" in story.living
    del story.answering["fox-0-1/1"]
    story.step()
    assert story.jobs["fox-0-1/1"].reason is JobReason.SCALED_DOWN
    story.step()
    assert story.leaving == []


@pytest.mark.parametrize("deaf", [False, True])
def test_a_stream_without_end_or_a_lost_gateway_is_waited_for_no_longer_than_said(
    deaf: bool,
) -> None:
    story = a_running(replicas=2)
    story.answering["fox-0-1/1"] = 1
    update(story, replicas=1)
    story.step()
    story.deaf = deaf
    story.step(DRAIN_TIME - SECOND)
    assert "fox-0-1/1" in story.living
    story.step(SECOND)
    assert story.living == ["fox-0-0/1"]


def test_what_was_only_just_decided_is_not_ended_before_it_is_written() -> None:
    story = a_running(replicas=2)
    update(story, replicas=1)
    story.step()
    assert story.leaving == ["fox-0-1/1"]
    assert "fox-0-1/1" in story.living


def test_an_inactive_number_is_used_again_with_the_next_attempt() -> None:
    story = a_running(replicas=2)
    update(story, replicas=1)
    for _ in range(3):
        story.step()
    update(story, replicas=2)
    story.step()
    assert story.living == ["fox-0-0/1", "fox-0-1/2"]


# --- stop ----------------------------------------------------------------------------------------


def test_a_stop_lets_every_replica_answer_first_and_then_ends_the_run() -> None:
    story = a_running(replicas=2)
    story.answering["fox-0-0/1"] = 1
    story.run = replace(story.run, stop_requested_at=story.now)
    assert story.step().status is RunStatus.TERMINATING
    story.step()
    assert story.living == ["fox-0-0/1"]
    story.answering.clear()
    story.step()
    run = story.step()
    assert (run.status, run.reason) == (RunStatus.TERMINATED, RunReason.STOPPED_BY_USER)
    assert {job.reason for job in story.jobs.values()} == {JobReason.TERMINATED_BY_USER}
    assert run.finished_at == story.now


def test_a_stop_cuts_what_is_still_answered_after_half_a_minute() -> None:
    story = a_running()
    story.answering["fox-0-0/1"] = 1
    story.run = replace(story.run, stop_requested_at=story.now)
    story.step()
    story.step(STOP_DRAIN_TIME - SECOND)
    assert story.living
    story.step(SECOND)
    assert story.step().status is RunStatus.TERMINATED


def test_an_abort_waits_for_nobody() -> None:
    story = a_running()
    story.answering["fox-0-0/1"] = 1
    story.run = replace(story.run, stop_requested_at=story.now)
    story.step()
    story.run = replace(story.run, abort=True)
    story.step()
    assert story.jobs["fox-0-0/1"].status is JobStatus.ABORTED
    assert story.step().reason is RunReason.ABORTED_BY_USER


def test_a_service_without_a_replica_stops_at_once() -> None:
    story = a_story(replicas="0..1", scaling={"metric": "rps", "target": 1})
    story.step()
    story.run = replace(story.run, stop_requested_at=story.now)
    assert story.step().status is RunStatus.TERMINATED


def test_the_time_to_drain_follows_stop_duration_where_it_is_written() -> None:
    assert drain_time(service(), stopping=False) == timedelta(minutes=5)
    assert drain_time(service(stop_duration="10m"), stopping=True) == timedelta(minutes=10)
    assert drain_time(service(stop_duration="10s"), stopping=True) == STOP_DRAIN_TIME
    assert drain_time(service(stop_duration="10s"), stopping=False) == timedelta(seconds=10)
    assert drain_time(service(stop_duration="off"), stopping=False) == timedelta(days=1)


# --- a new configuration -------------------------------------------------------------------------


def test_a_newer_configuration_replaces_one_replica_after_another_none_before_its_time() -> None:
    story = a_running(replicas=2)
    update(story, replicas=2, commands=["serve --better"])
    order: list[str] = []
    serving: Callable[[], int] = lambda: sum(  # noqa: E731 - a count of one line
        job in story.ready and job not in story.leaving for job in story.living
    )
    for _ in range(15):
        story.step()
        assert len(story.living) <= 3
        assert serving() >= 2
        order += [job for job in story.living if job not in order]
        story.start()
    assert story.living == ["fox-0-2/1", "fox-0-1/2"]
    assert {story.jobs[job].deployment for job in story.living} == {2}
    assert story.jobs["fox-0-0/1"].reason is JobReason.REPLACED
    assert story.jobs["fox-0-1/1"].reason is JobReason.REPLACED


def test_a_newer_configuration_that_crashes_leaves_the_old_one_serving_and_says_why() -> None:
    story = a_running()
    update(story, commands=["serve --broken"])
    for attempt in range(1, 4):
        story.step(timedelta(minutes=1))
        story.start(ready=False)
        story.crash(f"fox-0-1/{attempt}")
    run = story.step(timedelta(0))
    assert run.status is RunStatus.RUNNING
    assert story.living == ["fox-0-0/1"]
    assert run.service is not None
    assert run.service.resting[0].why == "ended with an error: exit code 3"


def test_a_newer_configuration_that_has_no_room_gets_that_of_an_old_replica() -> None:
    story = a_running()
    update(story, commands=["serve --better"])
    story.step()
    story.jobs["fox-0-1/1"] = replace(story.jobs["fox-0-1/1"], waiting="waits for 1 GPU")
    story.step(timedelta(seconds=3))
    assert story.leaving == []
    story.step(timedelta(seconds=3))
    assert story.leaving == ["fox-0-0/1"]
    story.step()
    assert story.living == ["fox-0-1/1"]


def test_an_old_replica_that_never_came_up_is_not_waited_for() -> None:
    story = a_story()
    story.step()
    update(story, commands=["serve --better"])
    story.step()
    story.step()
    assert [story.jobs[job].deployment for job in story.living] == [2]


def test_the_same_configuration_again_changes_nothing() -> None:
    story = a_running()
    assert renew(story.run, a_run(service()), offers_named=False) == story.run


@pytest.mark.parametrize(
    "written", [{"replicas": 2}, {"auth": False}, {"model": "m"}, {"rate_limits": [{"rps": 1}]}]
)
def test_what_only_the_gateway_must_know_replaces_no_replica(written: dict[str, object]) -> None:
    story = a_running()
    update(story, **written)
    assert story.run.service is not None
    assert story.run.service.deployment == 1
    assert story.run.configuration == service(**written)


def test_other_files_or_variables_are_another_deployment() -> None:
    run = a_running().run
    for facts in ({"files": "abc"}, {"environment": {"A": "1"}}):
        renewed = renew(run, replace(a_run(service()), **facts), offers_named=False)  # type: ignore[arg-type]
        assert renewed is not None
        assert renewed.service is not None
        assert renewed.service.deployment == 2
        assert renewed.id == run.id


def test_a_name_that_is_not_that_of_a_living_service_is_not_renewed() -> None:
    story = a_running()
    ended = replace(story.run, status=RunStatus.TERMINATED)
    assert renew(ended, a_run(service()), offers_named=False) is None
    stopping = replace(story.run, stop_requested_at=NOON)
    with pytest.raises(Conflict, match="being stopped"):
        renew(stopping, a_run(service()), offers_named=False)


def test_a_gateway_of_another_name_is_refused_in_a_sentence() -> None:
    with pytest.raises(Refused, match="no gateway 'mine'"):
        refuse_unsupported(service(gateway="mine"))
    for gateway in (True, False, None):
        refuse_unsupported(service(gateway=gateway))


def test_ended_attempts_are_forgotten_but_for_the_newest_of_each_replica() -> None:
    story = a_running(replicas=2)
    for attempt in range(1, ATTEMPTS_KEPT + 4):
        story.crash(f"fox-0-1/{attempt}")
        story.step(timedelta(minutes=10))
        story.start()
    past = past_attempts(story.jobs.values())
    assert [job.id for job in past] == ["fox-0-1/1", "fox-0-1/2", "fox-0-1/3"]
    assert not is_being_replaced(story.run, story.jobs.values())


def test_how_long_the_load_has_asked_for_more_is_no_news_but_its_scaling_is() -> None:
    story = a_running(replicas="1..3", scaling={"metric": "rps", "target": 1})
    story.load = {"loads": (Load(60, 180),)}
    before = story.run
    after = story.step()
    assert before.service != after.service
    assert not shows(before, after)
    scaled = story.step(timedelta(minutes=5))
    assert shows(after, scaled)
    assert not shows(scaled, scaled)


# --- whatever happens ----------------------------------------------------------------------------

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["step", "start", "start", "hang", "crash", "exit", "busy", "free"])
        | st.sampled_from(["renew", "resize", "wait"]),
        st.integers(0, 4),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(events=EVENTS, first=st.integers(0, 3))
def test_whatever_happens_no_serving_replica_goes_before_its_time_and_all_settles(
    events: list[tuple[str, int]], first: int
) -> None:
    story, version, replicas = a_story(replicas=first), 1, first
    for event, number in events:
        job = story.living[number % len(story.living)] if story.living else None
        match event:
            case "start" | "hang":
                story.start(ready=event == "start")
            case "crash" if job is not None:
                story.crash(job)
            case "exit" if job is not None:
                story.crash(job, JobReason.DONE_BY_RUNNER)
            case "busy" if job is not None:
                story.answering[job] = number
            case "free":
                story.answering.clear()
            case "renew" | "resize":
                version += event == "renew"
                replicas = number if event == "resize" else replicas
                update(story, replicas=replicas, commands=[f"serve {version}"])
            case "wait":
                story.now += timedelta(minutes=number)
        _step_and_check(story, replicas)
    for _ in range(40):
        story.answering.clear()
        story.start()
        story.ready.update(_running(story))
        _step_and_check(story, replicas, after=timedelta(seconds=30))
    assert len(story.living) == replicas
    assert story.run.service is not None
    assert {story.jobs[job].deployment for job in story.living} <= {story.run.service.deployment}
    assert (story.run.service.retiring, story.run.service.resting) == ((), ())
    assert story.run.status is (RunStatus.RUNNING if replicas else RunStatus.PENDING)


def _step_and_check(story: Story, replicas: int, after: timedelta = SECOND) -> None:
    leaving, answering = set(story.leaving), dict(story.answering)
    since = {one.job: one.since for one in story.run.service.retiring} if story.run.service else {}
    serving = {job for job in _running(story) if job not in leaving}
    running = set(_running(story))
    story.step(after)
    gone = {job for job in story.leaving if job in serving}
    if any(story.jobs[job].deployment != _deployment(story) for job in gone):
        assert len(serving - gone) >= replicas
    staying = [job for job in story.living if job not in story.leaving]
    assert len(staying) <= replicas + 1
    for job in leaving & running:
        if (
            story.jobs[job].finished
            and answering.get(job)
            and story.jobs[job].reason in (JobReason.SCALED_DOWN, JobReason.REPLACED)
        ):
            assert story.now - since[job] >= DRAIN_TIME


def _deployment(story: Story) -> int:
    assert story.run.service is not None
    return story.run.service.deployment


def _running(story: Story) -> list[str]:
    return [job for job in story.living if story.jobs[job].status is JobStatus.RUNNING]
