"""How far a run is: its five steps with times, and its state as a sentence.

Called by `rendering.runs` and by the run's card, so that a live card and its frozen copy agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from dstack_engine.enums import StrEnum
from dstack_engine.records.events import Progress
from dstack_engine.records.jobs import Job, JobReason, JobStatus
from dstack_engine.records.runs import RunReason, RunStatus, RunView
from dstack_jupyter.replicas import is_service


class StepState(StrEnum):
    """How a step stands."""

    DONE = "done"  #: behind us
    CURRENT = "current"  #: going on
    AHEAD = "ahead"  #: still to come
    SKIPPED = "skipped"  #: the run ended before it


@dataclass(frozen=True)
class Step:
    """One step of a run's way; `at` is when it began."""

    label: str
    state: StepState
    at: datetime | None = None
    #: What goes on in it now, e.g. ``42 %``.
    text: str = ""
    fraction: float | None = None


#: A sign for each status, so that it is told by shape as well as by word and colour.
SIGNS = {
    RunStatus.PENDING: "↻",
    RunStatus.SUBMITTED: "○",
    RunStatus.PROVISIONING: "◔",
    RunStatus.RUNNING: "▶",
    RunStatus.TERMINATING: "◌",
    RunStatus.TERMINATED: "■",
    RunStatus.FAILED: "✕",
    RunStatus.DONE: "✓",
}

_RUN_SENTENCES = {
    RunReason.RETRY_LIMIT_EXCEEDED: "no retry was left",
    RunReason.STOPPED_BY_USER: "was stopped by its user",
    RunReason.ABORTED_BY_USER: "was aborted by its user",
    RunReason.MAX_DURATION_EXCEEDED: "reached its max_duration",
    RunReason.SERVER_ERROR: "the engine met an error of its own",
}
_LABELS = ("Submitted", "Provisioning", "Pulling", "Running")


def steps_of(view: RunView, progress: Progress | None = None) -> tuple[Step, ...]:
    """Return the run's steps; *progress* tells how far the current one is."""
    job = view.job
    reached = _reached(view, job)
    times = _times(view, job)
    steps = []
    for at, label in enumerate(_LABELS):
        state = _state(view, at, reached, job)
        known = times[at] if state in (StepState.DONE, StepState.CURRENT) else None
        steps.append(Step(label, state, known))
    steps.append(_end(view))
    if progress is None or job is None or progress.job != job.id or view.finished:
        return tuple(steps)
    return tuple(_told(step, progress) for step in steps)


def sentence_of(view: RunView) -> str:
    """Return why the run waits or ended, as a sentence; empty where there is nothing to say."""
    job = view.telling
    if not view.finished and view.status is not RunStatus.TERMINATING:
        return _waiting(view, job)
    # A service's replicas come and go for reasons of their own.
    own = view.run.reason in _RUN_SENTENCES and is_service(view)
    if job is not None and job.reason is not None and not own:
        detail = f" ({job.detail})" if job.detail else ""
        more = " It was being retried." if view.status is RunStatus.PENDING else ""
        return f"{_who(view, job)} {_subject(job.reason)}{detail}.{more}"
    if view.run.reason in _RUN_SENTENCES:
        return f"{view.name} {_RUN_SENTENCES[view.run.reason]}."
    return ""


def _who(view: RunView, job: Job) -> str:
    """Return the subject of why the run ended: of several nodes the one that it is about."""
    several = len({one.node for one in view.jobs}) > 1
    return f"{view.name}: node {job.node}" if several else view.name


def status_word(view: RunView) -> str:
    """Return the run's status, or its job's, which knows more and is heard of first."""
    job = view.job
    if view.status is RunStatus.TERMINATING:
        return "aborting" if view.run.abort else "stopping"
    if view.status is RunStatus.PENDING:
        return "waiting to retry"
    if job is not None and not view.finished and job.status in _AHEAD:
        return str(job.status)
    return str(view.status)


#: What a job tells before its run does.
_AHEAD = frozenset({JobStatus.PROVISIONING, JobStatus.PULLING, JobStatus.RUNNING})


def _subject(reason: JobReason) -> str:
    # "wet-fox-1 one of its ports is taken" needs a verb of its own.
    sentence = reason.sentence
    return (
        f"could not run: {sentence}"
        if sentence.startswith(("its ", "one of", "the "))
        else sentence
    )


def _waiting(view: RunView, job: Job | None) -> str:
    if view.status is RunStatus.PENDING and job is not None and job.reason is not None:
        detail = f" ({job.detail})" if job.detail else ""
        return f"The last attempt {_subject(job.reason)}{detail}; it is tried again."
    return job.waiting if job is not None and job.waiting and not job.finished else ""


def _reached(view: RunView, job: Job | None) -> int:
    """Return the number of the step that the newest attempt has reached."""
    if job is None or view.status is RunStatus.PENDING:
        return 0
    if job.started_at is not None or job.status is JobStatus.RUNNING:
        return 3
    if job.status is JobStatus.PULLING:
        return 2
    return 1 if job.placed_at is not None else 0


def _times(view: RunView, job: Job | None) -> tuple[datetime | None, ...]:
    pulling = job.since if job is not None and job.status is JobStatus.PULLING else None
    placed, started = (job.placed_at, job.started_at) if job else (None, None)
    return view.run.submitted_at, placed, pulling, started


def _state(view: RunView, at: int, reached: int, job: Job | None) -> StepState:
    if at < reached:
        return StepState.DONE
    if view.finished:
        return StepState.DONE if at == reached else StepState.SKIPPED
    if at == reached:
        return StepState.CURRENT
    ending = view.status is RunStatus.TERMINATING or (job is not None and job.finished)
    return StepState.SKIPPED if ending and view.status is not RunStatus.PENDING else StepState.AHEAD


def _end(view: RunView) -> Step:
    if not view.finished:
        return Step("Ended", StepState.AHEAD)
    finished_at = view.run.finished_at or view.run.since
    return Step(str(view.status).capitalize(), StepState.DONE, finished_at)


def _told(step: Step, progress: Progress) -> Step:
    if step.state is not StepState.CURRENT:
        return step
    percent = "" if progress.fraction is None else f"{progress.fraction * 100:.0f} %"
    words = progress.text or (progress.step if progress.step.lower() != step.label.lower() else "")
    return replace(step, text=" ".join(filter(None, (percent, words))), fraction=progress.fraction)
