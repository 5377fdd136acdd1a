"""How a service moves on: replicas wanted, made, replaced, drained and ended. Pure.

The run loop calls `advance_service` with all jobs of the run and with what the gateway saw of it,
and saves what comes back: the run with its `ServiceState`, and the jobs it lacks. A replica that
ended, for whatever reason, is started again and never ends the service. One that is to leave is
first `Retiring`: the gateway gives it nothing new, and its container is told to end once it has
answered everything, or its time for that is over (`wish_for_replica`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dstack_engine.decisions.autoscaling import demand_of, scale
from dstack_engine.decisions.crashes import rest_of
from dstack_engine.decisions.runs import Advance
from dstack_engine.records.jobs import Job, JobId, JobReason, JobStatus
from dstack_engine.records.publication import ReplicaReport, ReplicaState, ServiceReport
from dstack_engine.records.runs import Run, RunReason, RunStatus
from dstack_engine.records.services import Rest, Retiring, ServiceState
from dstack_engine.spec.configurations import ServiceConfiguration

#: How long a replica may finish what it is answering when it is scaled down or replaced, where
#: `stop_duration` is not written; and at least when its service is stopped.
DRAIN_TIME = timedelta(minutes=5)
STOP_DRAIN_TIME = timedelta(seconds=30)

#: `stop_duration: off`: as long as it needs.
PATIENT_DRAIN_TIME = timedelta(days=1)

#: A new replica that has waited so long for a place gets that of an old one: both have no room.
MAKE_ROOM_AFTER = timedelta(seconds=5)

#: A gateway that does not know a running replica so long after it was to leave gives it nothing.
UNKNOWN_AFTER = timedelta(seconds=2)

#: The order in which replicas leave: those that have got the least far go first.
_PROGRESS = {JobStatus.SUBMITTED: 0, JobStatus.PROVISIONING: 1, JobStatus.PULLING: 1}


def first_state(wanted: ServiceConfiguration) -> ServiceState:
    """Return the state of a service that was submitted now."""
    return ServiceState(desired=wanted.replicas.min)


def advance_service(
    run: Run, jobs: Sequence[Job], report: ServiceReport | None, now: datetime
) -> Advance:
    """Return the service as it should be written now, with the jobs it lacks.

    *jobs* are all attempts, oldest first; *report* is what the gateway saw last, None where none
    tells anything.
    """
    if run.finished:
        return Advance(run)
    assert isinstance(run.configuration, ServiceConfiguration), f"run {run.name} is no service"
    state = run.service or first_state(run.configuration)
    seen = _Seen(run, run.configuration, state, tuple(jobs), report, now)
    reason = _reason_to_end(run, jobs)
    if reason is not None:
        return Advance(_end(seen, reason))
    return _Step(seen).take()


def wish_for_replica(run: Run, job: Job) -> JobReason | None:
    """Return why the service wants *job* to end now, or None while it does not."""
    if run.abort:
        return JobReason.ABORTED_BY_USER
    if run.reason is RunReason.MAX_DURATION_EXCEEDED:
        return JobReason.TERMINATED_BY_SERVER
    retiring = run.service.retiring if run.service is not None else ()
    return next((one.why for one in retiring if one.job == job.id and one.drained), None)


def is_being_replaced(run: Run, jobs: Iterable[Job]) -> bool:
    """Tell whether a replica of an older configuration still lives."""
    state = run.service
    if state is None:
        return False
    return any(not job.finished and job.deployment != state.deployment for job in jobs)


def shows(before: Run, after: Run) -> bool:
    """Tell whether anybody but the run loop wants to know what changed.

    A load about a replica's target asks for one more and again for none, second by second; that
    is written down, so that a delay goes on with the next engine, but it is no news.
    """
    if before.service is None or after.service is None:
        return True
    now = after.service
    state = replace(before.service, above_since=now.above_since, below_since=now.below_since)
    return replace(before, service=state) != after


@dataclass(frozen=True)
class _Seen:
    """All that one step is decided from."""

    run: Run
    wanted: ServiceConfiguration
    state: ServiceState
    jobs: tuple[Job, ...]
    report: ServiceReport | None
    now: datetime

    def replica(self, job: JobId) -> ReplicaReport | None:
        """Return how the gateway sees the replica of that job."""
        replicas = self.report.replicas if self.report is not None else ()
        return next((one for one in replicas if one.job == job), None)

    def is_ready(self, job: Job) -> bool:
        """Tell whether the gateway gives requests to *job*."""
        found = self.replica(job.id)
        return found is not None and found.state is ReplicaState.READY

    def elapsed(self, since: datetime) -> timedelta:
        """Return how long ago *since* was; nothing where the clock was set back meanwhile."""
        return max(self.now - since, timedelta(0))


# --- the end -------------------------------------------------------------------------------------


def _reason_to_end(run: Run, jobs: Iterable[Job]) -> RunReason | None:
    if run.status is RunStatus.TERMINATING:
        return run.reason
    if run.stop_requested_at is not None:
        return RunReason.ABORTED_BY_USER if run.abort else RunReason.STOPPED_BY_USER
    if any(job.reason is JobReason.MAX_DURATION_EXCEEDED for job in jobs):
        return RunReason.MAX_DURATION_EXCEEDED
    return None


def _end(seen: _Seen, reason: RunReason) -> Run:
    """Return the run on its way to its end: every replica retires, and it ends with the last."""
    run, now = seen.run, seen.now
    if run.abort:
        reason = RunReason.ABORTED_BY_USER
    if run.status is not RunStatus.TERMINATING:
        run = replace(run, status=RunStatus.TERMINATING, since=now, retry_at=None)
    unfinished = [job for job in seen.jobs if not job.finished]
    state = replace(seen.state, resting=(), above_since=None, below_since=None)
    state = _retire(state, unfinished, JobReason.TERMINATED_BY_USER, now)
    run = replace(run, reason=reason, service=_drain(seen, state))
    if unfinished:
        return run
    return replace(
        run,
        status=reason.final_status,
        since=now,
        finished_at=now,
        started_at=run.started_at or _first_start(seen.jobs),
    )


# --- a step of a living service ------------------------------------------------------------------


class _Step:
    """One step of a service that lives on, a paragraph a method; used once."""

    def __init__(self, seen: _Seen) -> None:
        self._seen = seen
        demand = demand_of(seen.report, seen.wanted.scaling)
        self._state = scale(seen.state, seen.wanted.replicas, seen.wanted.scaling, demand, seen.now)
        self._leaving = {one.job for one in seen.state.retiring}
        living = [job for job in seen.jobs if self._lives(job)]
        self._new = [job for job in living if job.deployment == self._state.deployment]
        self._old = [job for job in living if job.deployment != self._state.deployment]
        # Those that end by themselves: started again once they have, under their own number.
        self._ending = [job for job in seen.jobs if self._crashes(job)]
        self._made: list[Job] = []
        self._resting: list[Rest] = []

    def take(self) -> Advance:
        """Return what is to be written."""
        if self._old:
            self._retire_old()
        self._retire_surplus()
        self._start_missing()
        state = replace(_drain(self._seen, self._state), resting=tuple(self._resting))
        return Advance(_follow(self._seen, state, self._made), tuple(self._made))

    def _lives(self, job: Job) -> bool:
        ending = job.status is JobStatus.TERMINATING or job.finished
        return not ending and job.id not in self._leaving

    def _crashes(self, job: Job) -> bool:
        return job.status is JobStatus.TERMINATING and job.id not in self._leaving

    def _retire_old(self) -> None:
        """Let replicas of an older configuration go, as far as others serve in their stead."""
        idle = [job for job in self._old if job.status is not JobStatus.RUNNING]
        serving = [job for job in self._old if job.status is JobStatus.RUNNING]
        ready = sum(self._is_ready(job) for job in self._new)
        surplus = ready + len(serving) - self._state.desired
        if surplus <= 0 and self._lacks_room():
            surplus = 1
        going = [*idle, *self._first_to_go(serving)[: max(surplus, 0)]]
        self._let_go(going, JobReason.REPLACED)
        self._old = [job for job in self._old if job not in going]

    def _lacks_room(self) -> bool:
        """Tell whether a new replica waits for what only an old one can give up."""
        if self._leaving:
            return False
        return any(
            job.status is JobStatus.SUBMITTED
            and job.waiting is not None
            and self._seen.elapsed(job.submitted_at) >= MAKE_ROOM_AFTER
            for job in self._new
        )

    def _retire_surplus(self) -> None:
        desired = self._state.desired
        going = self._first_to_go(self._new)[: max(len(self._new) - desired, 0)]
        if self._old:  # those serve until as many new ones are ready; so one is beyond, no more
            beyond = len(self._new) - len(going) + len(self._old) - desired - 1
            unready = [job for job in self._new if job not in going and not self._is_ready(job)]
            going += self._first_to_go(unready)[: max(beyond, 0)]
        self._let_go(going, JobReason.SCALED_DOWN)
        self._new = [job for job in self._new if job not in going]

    def _first_to_go(self, jobs: Sequence[Job]) -> list[Job]:
        """Return *jobs* in the order in which they leave: the least far first, then by number.

        dstack's order; of those that run, the ones that the gateway finds ready stay the longest.
        """

        def place(job: Job) -> tuple[int, bool, int]:
            return _PROGRESS.get(job.status, 2), self._is_ready(job), -job.replica

        return sorted(jobs, key=place)

    def _is_ready(self, job: Job) -> bool:
        return self._seen.is_ready(job)

    def _let_go(self, jobs: Sequence[Job], why: JobReason) -> None:
        self._state = _retire(self._state, jobs, why, self._seen.now)

    def _start_missing(self) -> None:
        for replica in self._numbers(self._missing()):
            attempts = [job for job in self._seen.jobs if job.replica == replica]
            rest = rest_of(replica, attempts, self._state.deployment, self._seen.now)
            if rest is not None:
                self._resting.append(rest)
            else:
                self._made.append(_new_job(self._seen, self._state, replica, attempts))

    def _missing(self) -> int:
        """Return how many replicas to start; one beyond the desired while old ones are replaced."""
        there = len(self._new) + len(self._old) + len(self._ending)
        missing = self._state.desired - there
        if missing > 0 or not self._old or len(self._new) >= self._state.desired:
            return max(missing, 0)
        unsettled = self._ending or self._state.retiring
        all_ready = all(self._is_ready(job) for job in self._new)
        return 1 if all_ready and not unsettled else 0

    def _numbers(self, count: int) -> list[int]:
        """Return the lowest numbers that no job has that is not finished."""
        taken = {job.replica for job in self._seen.jobs if not job.finished}
        free = (number for number in range(len(taken) + count) if number not in taken)
        return [number for number, _ in zip(free, range(count), strict=False)]


def _new_job(seen: _Seen, state: ServiceState, replica: int, attempts: Sequence[Job]) -> Job:
    attempt = max((job.attempt for job in attempts), default=0) + 1
    return Job(
        id=JobId(f"{seen.run.name}-0-{replica}/{attempt}"),
        run_id=seen.run.id,
        run_name=seen.run.name,
        node=0,
        replica=replica,
        attempt=attempt,
        status=JobStatus.SUBMITTED,
        since=seen.now,
        submitted_at=seen.now,
        deployment=state.deployment,
    )


# --- leaving -------------------------------------------------------------------------------------


def _retire(
    state: ServiceState, jobs: Iterable[Job], why: JobReason, now: datetime
) -> ServiceState:
    """Return the state with *jobs* retiring, too."""
    known = {one.job for one in state.retiring}
    new = tuple(Retiring(job.id, now, why) for job in jobs if job.id not in known)
    return replace(state, retiring=(*state.retiring, *new)) if new else state


def _drain(seen: _Seen, state: ServiceState) -> ServiceState:
    """Return the state with who has drained marked, and who has ended left out."""
    unfinished = {job.id: job for job in seen.jobs if not job.finished}
    retiring = (_drain_one(seen, one, unfinished.get(one.job)) for one in state.retiring)
    return replace(state, retiring=tuple(one for one in retiring if one is not None))


def _drain_one(seen: _Seen, one: Retiring, job: Job | None) -> Retiring | None:
    if job is None:
        return None
    if one.since > seen.now:  # the clock was set back; nobody waits until it is there again
        return replace(one, since=seen.now)
    # Only what was written down before: until then it may still be given requests.
    known = any(before.job == one.job for before in seen.state.retiring)
    if one.drained or not known or not _has_drained(seen, one, job):
        return one
    return replace(one, drained=True)


def _has_drained(seen: _Seen, one: Retiring, job: Job) -> bool:
    if job.status is not JobStatus.RUNNING:
        return True
    elapsed = seen.now - one.since
    if elapsed >= drain_time(seen.wanted, stopping=_is_stopping(seen.run)):
        return True
    if seen.report is None:
        return False
    replica = seen.replica(job.id)
    if replica is None:
        return elapsed >= UNKNOWN_AFTER
    return replica.state is ReplicaState.DRAINING and replica.in_flight == 0


def _is_stopping(run: Run) -> bool:
    return run.stop_requested_at is not None or run.status is RunStatus.TERMINATING


def drain_time(wanted: ServiceConfiguration, *, stopping: bool) -> timedelta:
    """Return how long a replica may finish what it is answering before it is ended."""
    written = wanted.stop_duration
    if written is None:
        return STOP_DRAIN_TIME if stopping else DRAIN_TIME
    own = PATIENT_DRAIN_TIME if isinstance(written, str) else timedelta(seconds=int(written))
    return max(own, STOP_DRAIN_TIME) if stopping else own


# --- the run's status ----------------------------------------------------------------------------


def _follow(seen: _Seen, state: ServiceState, made: Sequence[Job]) -> Run:
    """Return the run with the status of its best replica; `pending` while it has none."""
    jobs = [*seen.jobs, *made]
    status = _status_of(jobs)
    rests = [rest.until for rest in state.resting]
    run = replace(
        seen.run,
        service=state,
        started_at=seen.run.started_at or _first_start(jobs),
        retry_at=min(rests) if rests and status is RunStatus.PENDING else None,
    )
    return run if run.status is status else replace(run, status=status, since=seen.now)


def _status_of(jobs: Iterable[Job]) -> RunStatus:
    statuses = {job.status for job in jobs}
    if JobStatus.RUNNING in statuses:
        return RunStatus.RUNNING
    if statuses & {JobStatus.PROVISIONING, JobStatus.PULLING}:
        return RunStatus.PROVISIONING
    return RunStatus.SUBMITTED if JobStatus.SUBMITTED in statuses else RunStatus.PENDING


def _first_start(jobs: Iterable[Job]) -> datetime | None:
    return min((job.started_at for job in jobs if job.started_at is not None), default=None)
