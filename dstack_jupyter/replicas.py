"""A service's replicas as they stand: what the engine decided beside what the gateway sees.

Pure. Called by `rendering.services`, by the service's card and by whoever waits until it is ready.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dstack_engine.enums import StrEnum
from dstack_engine.records.jobs import Job, JobReason, JobStatus
from dstack_engine.records.publication import ReplicaReport, ReplicaState, ServiceReport
from dstack_engine.records.runs import RunStatus, RunView
from dstack_engine.records.services import Rest, ServiceState

#: After so many failures without a ready replica a service counts as one that does not start.
FAILURES = 2

_ASKED_FOR = frozenset(
    {
        JobReason.SCALED_DOWN,
        JobReason.REPLACED,
        JobReason.TERMINATED_BY_USER,
        JobReason.ABORTED_BY_USER,
    }
)


class ReplicaWord(StrEnum):
    """How a replica stands, in the word that is shown."""

    WAITING = "waiting"  #: for a place
    PREPARING = "preparing"  #: its image and files are fetched, its container is made
    STARTING = "starting"  #: runs, and has not answered its probe yet
    READY = "ready"  #: is given requests
    EJECTED = "ejected"  #: was ready, fails now; tried again after a while
    DRAINING = "draining"  #: gets nothing new; what it is answering it finishes
    STOPPING = "stopping"  #: its container ends
    RESTING = "failed"  #: failed, and is started again in a while


class ServiceWord(StrEnum):
    """How a service stands, in the word that is shown."""

    READY = "ready"  #: as many replicas are ready as there are to be
    STARTING = "starting"  #: replicas are on their way
    UPDATING = "updating"  #: replicas of the older configuration are being replaced
    ASLEEP = "asleep"  #: no replica is wanted; the first request starts one
    FAILING = "failing"  #: replicas fail again and again
    STOPPING = "stopping"
    ABORTING = "aborting"


@dataclass(frozen=True)
class Replica:
    """One line of the table of replicas: a living job, or a pause until the next."""

    number: int
    word: ReplicaWord
    job: Job | None = None
    report: ReplicaReport | None = None
    #: What there is to say about it: why it waits, fails, is not ready.
    note: str = ""
    #: When it is started again, while it rests.
    until: datetime | None = None


@dataclass(frozen=True)
class Standing:
    """How a service stands as a whole."""

    word: str
    #: The same with its numbers and reasons, as a sentence; may be empty.
    sentence: str
    ready: int
    desired: int


def is_service(view: RunView) -> bool:
    """Tell whether the run is a service."""
    return view.run.configuration.type == "service"


def state_of(view: RunView) -> ServiceState:
    """Return what was decided for the service; before the first decision, what it asks for."""
    least = getattr(view.run.configuration, "replicas", None)
    return view.run.service or ServiceState(desired=least.min if least is not None else 1)


def newest_jobs(view: RunView) -> list[Job]:
    """Return the newest attempt of each replica, or of each node, by their numbers."""
    newest = {(job.replica, job.node): job for job in view.jobs}
    return [newest[numbers] for numbers in sorted(newest)]


def living_jobs(view: RunView) -> list[Job]:
    """Return the jobs that have not ended, by replica and age."""
    living = [job for job in view.jobs if job.node == 0 and not job.finished]
    return sorted(living, key=lambda job: (job.replica, job.attempt))


def replicas_of(view: RunView, report: ServiceReport | None) -> list[Replica]:
    """Return the replicas: those that live, and those that are to be started again."""
    if view.finished:
        return []
    seen = {one.job: one for one in report.replicas} if report is not None else {}
    living = living_jobs(view)
    rows = [_living(job, seen.get(job.id)) for job in living]
    numbers = {job.replica for job in living}
    rows += [
        Replica(rest.replica, ReplicaWord.RESTING, note=rest.why, until=rest.until)
        for rest in state_of(view).resting
        if rest.replica not in numbers
    ]
    return sorted(rows, key=lambda row: row.number)


def standing_of(view: RunView, report: ServiceReport | None) -> Standing:
    """Return how the service stands; for one that has ended, with its status as the word."""
    state, rows = state_of(view), replicas_of(view, report)
    ready = sum(row.word is ReplicaWord.READY for row in rows)
    if view.finished:
        return Standing(str(view.status), "", 0, 0)
    if view.status is RunStatus.TERMINATING:
        word = ServiceWord.ABORTING if view.run.abort else ServiceWord.STOPPING
        return Standing(word, _stopping(report), ready, state.desired)
    if updating := _updating(view, state):
        return Standing(ServiceWord.UPDATING, updating, ready, state.desired)
    if ready >= state.desired > 0:
        return Standing(ServiceWord.READY, _ready(state, ready), ready, state.desired)
    if state.desired == 0 and not rows:
        return Standing(ServiceWord.ASLEEP, _asleep(report), 0, 0)
    if state.resting and ready == 0:
        return Standing(ServiceWord.FAILING, _failing(state.resting), ready, state.desired)
    return Standing(ServiceWord.STARTING, _starting(rows, state, ready), ready, state.desired)


def is_up(view: RunView, report: ServiceReport | None) -> bool:
    """Tell whether requests are answered as its configuration says.

    A replica is ready and none is of an older configuration, or the first request starts one.
    """
    standing = standing_of(view, report)
    if report is None or standing.word == ServiceWord.UPDATING:
        return False
    return standing.ready > 0 or standing.word == ServiceWord.ASLEEP


def does_not_start(view: RunView, report: ServiceReport | None) -> bool:
    """Tell whether waiting for it is in vain: it has ended, or only fails."""
    if view.finished or view.status is RunStatus.TERMINATING:
        return True
    deployment = state_of(view).deployment
    failed = [
        job
        for job in view.jobs
        if job.finished and job.deployment == deployment and job.reason not in _ASKED_FOR
    ]
    ready = [
        row
        for row in replicas_of(view, report)
        if row.word is ReplicaWord.READY and row.job and row.job.deployment == deployment
    ]
    return len(failed) >= FAILURES and not ready


def _living(job: Job, seen: ReplicaReport | None) -> Replica:
    match job.status:
        case JobStatus.SUBMITTED:
            return Replica(job.replica, ReplicaWord.WAITING, job, note=job.waiting or "")
        case JobStatus.PROVISIONING | JobStatus.PULLING:
            return Replica(job.replica, ReplicaWord.PREPARING, job, note=job.waiting or "")
        case JobStatus.TERMINATING:
            why = f"it {job.reason.sentence}" if job.reason else ""
            return Replica(job.replica, ReplicaWord.STOPPING, job, seen, why)
    if seen is None:
        return Replica(job.replica, ReplicaWord.STARTING, job)
    return Replica(job.replica, _SEEN[seen.state], job, seen, seen.trouble or "")


_SEEN = {
    ReplicaState.PROBING: ReplicaWord.STARTING,
    ReplicaState.READY: ReplicaWord.READY,
    ReplicaState.EJECTED: ReplicaWord.EJECTED,
    ReplicaState.DRAINING: ReplicaWord.DRAINING,
}


def _ready(state: ServiceState, ready: int) -> str:
    sentence = f"{ready} of {state.desired} {_replicas(state.desired)} ready"
    if state.resting:
        return f"{sentence}; {_failing(state.resting)}"
    return f"{sentence} ({state.scaled_why})" if state.scaled_why else sentence


def _starting(rows: list[Replica], state: ServiceState, ready: int) -> str:
    sentence = f"{ready} of {state.desired} {_replicas(state.desired)} ready"
    if state.resting:
        return f"{sentence}; {_failing(state.resting)}"
    notes = [row.note for row in rows if row.note and row.word is not ReplicaWord.READY]
    return f"{sentence}: {notes[0]}" if notes else sentence


def _asleep(report: ServiceReport | None) -> str:
    if report is not None and report.held:
        return "the first request has come; a replica is being started for it"
    return "no replica runs; the first request starts one, and waits for it"


def _failing(resting: tuple[Rest, ...]) -> str:
    first = min(resting, key=lambda rest: rest.until)
    return f"replica {first.replica} failed: {first.why}"


def _stopping(report: ServiceReport | None) -> str:
    if report is None or not report.in_flight:
        return ""
    noun = "request is" if report.in_flight == 1 else "requests are"
    return f"{report.in_flight} {noun} still being answered"


def _updating(view: RunView, state: ServiceState) -> str:
    replaced = {one.job for one in state.retiring if one.why is JobReason.REPLACED}
    living = living_jobs(view)
    older = [job for job in living if job.deployment < state.deployment or job.id in replaced]
    if not older:
        return ""
    newer = sum(job.deployment == state.deployment for job in living)
    sentence = (
        f"one replica at a time: {newer} of {max(state.desired, newer)} of the new configuration"
    )
    return f"{sentence}; {_failing(state.resting)}" if state.resting else sentence


def _replicas(count: int) -> str:
    return "replica is" if count == 1 else "replicas are"
