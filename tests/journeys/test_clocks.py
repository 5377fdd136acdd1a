"""Laptops sleep and clocks jump: durations are what they were meant to be, and nothing misfires."""

from __future__ import annotations

import signal
import time
from datetime import datetime, timedelta, timezone

import pytest

from dstack_engine.hosts import descendants
from dstack_engine.reconcilers.loop import Stopwatch
from dstack_engine.records.jobs import JobReason
from dstack_engine.records.runs import RunReason, RunStatus
from tests.journeys.engines import EngineProcess, jobs_processes

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
HOURS = timedelta(hours=5)


def test_what_began_before_is_reckoned_by_the_clock_once_and_then_measured() -> None:
    watch = Stopwatch()
    assert watch.elapsed("fox", NOON, NOON + HOURS) >= HOURS
    assert watch.elapsed("fox", NOON, NOON + 9 * HOURS) < HOURS + timedelta(minutes=1)
    assert watch.elapsed("fox", NOON, NOON - 9 * HOURS) >= HOURS
    assert watch.elapsed("owl", NOON, NOON - HOURS) < timedelta(minutes=1)
    watch.forget("fox")
    assert watch.elapsed("fox", NOON, NOON) < timedelta(minutes=1)


def test_another_beginning_is_measured_anew() -> None:
    watch = Stopwatch()
    watch.elapsed("fox", NOON, NOON + HOURS)
    assert watch.elapsed("fox", NOON + HOURS, NOON + HOURS) < timedelta(minutes=1)


@pytest.mark.parametrize("hours", [6, -6])
def test_a_clock_that_jumps_neither_ends_a_run_nor_keeps_it(
    engine: EngineProcess, hours: int
) -> None:
    clock = engine.home.make().root / "clock"
    text = "max_duration: 1h\ncommands: [echo up, 'until [ -e go ]; do sleep 0.05; done']"
    name = engine.start(clock=clock).submit(text).name
    engine.until_prints(name, b"up")
    clock.write_text(str(hours * 3600))
    # Whatever looks at the run now sees the wrong clock; a second run makes sure that all did.
    other = engine.submit("commands: ['true']").name
    engine.until_ended(other)
    assert engine.client.run(name).status is RunStatus.RUNNING
    engine.client.execute(name, ["touch", "go"], lambda _stream, _data: None)
    view = engine.until_ended(name)
    assert (view.status, view.run.reason) == (RunStatus.DONE, RunReason.ALL_JOBS_DONE)


def test_a_restart_with_a_clock_set_forward_does_not_end_what_its_host_times(
    engine: EngineProcess,
) -> None:
    clock = engine.home.make().root / "clock"
    text = "max_duration: 1h\ncommands: [echo up, sleep 0.7, echo done]"
    name = engine.start(clock=clock).submit(text).name
    engine.until_prints(name, b"up")
    engine.kill()
    clock.write_text(str(6 * 3600))
    assert engine.start(clock=clock).until_ended(name).status is RunStatus.DONE


@pytest.mark.parametrize("hours", [6, -6])
def test_a_clock_that_jumps_does_not_put_off_or_end_a_retry(
    engine: EngineProcess, hours: int
) -> None:
    clock = engine.home.make().root / "clock"
    text = (
        "retry: {on_events: [error], duration: 1h}\n"
        "commands: ['test -e $HOME/../once && exit 0; exit 1']"
    )
    marker = engine.home.root / "again"
    text = text.replace("$HOME/../once", str(marker))
    name = engine.start(clock=clock).submit(text).name
    engine.until(name, lambda view: view.status is RunStatus.PENDING, "the run to wait")
    clock.write_text(str(hours * 3600))
    marker.touch()
    view = engine.until_ended(name)
    assert (view.status, len(view.jobs)) == (RunStatus.DONE, 2)


def test_a_run_goes_on_when_everything_has_slept(engine: EngineProcess) -> None:
    text = "max_duration: 20s\ncommands: ['for i in $(seq 1 50); do echo $i; sleep 0.02; done']"
    name = engine.start().submit(text).name
    engine.until_prints(name, b"3\n")
    ours = [engine.pid, *jobs_processes(engine.home)]
    _signal_all(ours, signal.SIGSTOP)
    time.sleep(2)  # nothing can be waited for: everything that could tell stands still
    _signal_all(ours, signal.SIGCONT)
    view = engine.until_ended(name)
    assert view.status is RunStatus.DONE, engine.log_tail()
    assert engine.output(name) == b"".join(b"%d\n" % number for number in range(1, 51))


def test_a_run_over_its_max_duration_is_ended_while_no_engine_lives(
    engine: EngineProcess,
) -> None:
    text = "max_duration: 2s\ncommands: [echo up, sleep 1000]"
    name = engine.start().submit(text).name
    engine.until_prints(name, b"up")
    engine.kill()
    deadline = time.monotonic() + 30
    while jobs_processes(engine.home) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert jobs_processes(engine.home) == {}
    view = engine.start().until_ended(name)
    assert (view.status, view.run.reason) == (
        RunStatus.TERMINATED,
        RunReason.MAX_DURATION_EXCEEDED,
    )
    assert view.jobs[0].reason is JobReason.MAX_DURATION_EXCEEDED


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        descendants.send(pid, number)
