"""How a replica that crashes again and again is started less and less often. Pure.

`decisions.services` asks for the pause before it starts a replica; housekeeping, which attempts
nobody needs any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from dstack_engine.decisions.runs import RETRY_WAITS
from dstack_engine.records.jobs import Job, JobReason
from dstack_engine.records.services import Rest

#: A replica that ran so long was well: the pauses after its crashes begin anew.
RAN_WELL = timedelta(seconds=60)

#: As many ended attempts of each replica are remembered while its service lives.
ATTEMPTS_KEPT = len(RETRY_WAITS) + 2

#: Reasons for which the engine itself ended a job: no crashes.
_MEANT = frozenset(
    {
        JobReason.SCALED_DOWN,
        JobReason.REPLACED,
        JobReason.TERMINATED_BY_USER,
        JobReason.ABORTED_BY_USER,
        JobReason.TERMINATED_BY_SERVER,
    }
)


def rest_of(replica: int, attempts: Sequence[Job], deployment: int, now: datetime) -> Rest | None:
    """Return the pause that the replica is in after its last crash; None when it may start."""
    crashes = 0
    last = attempts[-1] if attempts else None
    for job in reversed(attempts):
        if job.deployment != deployment or job.reason is None or job.reason in _MEANT:
            break
        crashes += 1
        if _ran(job) >= RAN_WELL:
            break
    if not crashes or last is None or last.finished_at is None:
        return None
    until = last.finished_at + RETRY_WAITS[min(crashes, len(RETRY_WAITS)) - 1]
    # Before its end: the clock was set back, and nobody waits until it is there again.
    if now >= until or now < last.finished_at:
        return None
    return Rest(replica, until, _failure(last))


def _ran(job: Job) -> timedelta:
    if job.started_at is None or job.finished_at is None:
        return timedelta(0)
    return job.finished_at - job.started_at


def _failure(job: Job) -> str:
    assert job.reason is not None, f"job {job.id} ended without a reason"
    return job.reason.sentence + (f": {job.detail}" if job.detail else "")


def past_attempts(jobs: Iterable[Job]) -> list[Job]:
    """Return the ended attempts that nobody needs any more, of a service that lives on.

    The newest of each replica are kept: to be looked at, and for the pause after the next crash.
    """
    ended: dict[int, list[Job]] = {}
    for job in jobs:
        if job.finished:
            ended.setdefault(job.replica, []).append(job)
    return [job for attempts in ended.values() for job in attempts[:-ATTEMPTS_KEPT]]
