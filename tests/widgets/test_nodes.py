"""Runs of several nodes as they are shown: each node's place, and who printed what."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from dstack_engine.records.events import Frame, Stream
from dstack_engine.records.jobs import Job, JobId, JobReason, JobStatus
from dstack_engine.records.runs import RunStatus, RunView
from dstack_engine.spec.configurations import TaskConfiguration
from dstack_jupyter.labels import Labels
from dstack_jupyter.rendering.runs import RunCopy, facts_of
from dstack_jupyter.rendering.steps import sentence_of
from dstack_jupyter.replicas import newest_jobs
from dstack_jupyter.widgets.run import RunCard
from tests.widgets.samples import NOON, a_job, a_run

TASK = TaskConfiguration.model_validate({"type": "task", "commands": ["ls"], "nodes": 2})


def a_node(number: int, status: JobStatus = JobStatus.RUNNING, *, attempt: int = 1) -> Job:
    job = a_job(status)
    return replace(
        job,
        id=JobId(f"wet-fox-1-{number}-0/{attempt}"),
        node=number,
        attempt=attempt,
        instance=f"lab-{number}",
    )


def nodes(*jobs: Job, status: RunStatus = RunStatus.RUNNING) -> RunView:
    view = a_run(status)
    return RunView(replace(view.run, configuration=TASK), jobs)


def test_each_node_is_shown_with_its_state_and_place() -> None:
    waiting = replace(
        a_node(1, JobStatus.PULLING), waiting="waits for node 0: all nodes start together"
    )
    facts = facts_of(nodes(a_node(0), waiting))
    assert facts[-2:] == [
        "node 0 running · lab-0",
        "node 1 pulling · lab-1 · waits for node 0: all nodes start together",
    ]
    assert not any("attempt" in fact for fact in facts)


def test_attempts_of_nodes_are_counted_once_for_all() -> None:
    earlier = [a_node(number, JobStatus.FAILED) for number in (0, 1)]
    later = [a_node(number, attempt=2) for number in (0, 1)]
    view = nodes(*earlier, *later)
    assert newest_jobs(view) == later
    assert facts_of(view)[-1] == "2 attempts"


def test_the_node_that_failed_first_says_why_the_run_ended() -> None:
    stopped = replace(
        a_node(0, JobStatus.TERMINATED), reason=JobReason.TERMINATED_BY_SERVER, since=NOON
    )
    failed = replace(a_node(1, JobStatus.FAILED), since=NOON)
    later = replace(a_node(2, JobStatus.FAILED), since=NOON + timedelta(seconds=9), detail="late")
    view = nodes(stopped, later, failed, status=RunStatus.FAILED)
    assert sentence_of(view) == "wet-fox-1: node 1 ended with an error (exit code 3)."


def test_lines_of_several_nodes_tell_who_printed_them() -> None:
    labels, first, second = Labels(nodes(a_node(0))), a_node(0).container, a_node(1).container
    printed = [
        labels.put(first, b"one\ntw"),
        labels.put(second, b"other\n"),
        labels.put(first, b"o\n"),
    ]
    assert b"".join(printed) == b"[0] one\n[0] tw\n[1] other\n[0] o\n"
    assert Labels(a_run()).put(a_job().container, b"alone\n") == b"alone\n"


def test_a_card_shows_the_output_of_all_nodes_on_one_screen() -> None:
    card = RunCard(nodes(a_node(0), a_node(1)))
    for job, text in ((a_node(0), b"here\n"), (a_node(1), b"there\n")):
        card.log([Frame(0, len(text), Stream.STDOUT, NOON, text)], job.container)
    copy = card.static_copy()
    assert isinstance(copy, RunCopy)
    assert copy.text().endswith("[0] here\n[1] there")
