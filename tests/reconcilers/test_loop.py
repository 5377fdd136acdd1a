"""Queues, back-off and activities: what the loops promise to those who wake them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from dstack_engine.errors import HostUnreachable, LeaseLost
from dstack_engine.reconcilers.loop import Activities, Loop, Pauses

PATIENCE = 10.0


@contextmanager
def running(
    tick: Callable[[str], timedelta | None], keys: Callable[[], list[str]] = list, workers: int = 2
) -> Iterator[Loop[str]]:
    loop: Loop[str] = Loop("test", tick, keys, workers=workers)
    loop.start()
    yield loop
    loop.stop()


def test_a_woken_key_is_looked_at() -> None:
    seen = threading.Event()
    with running(lambda _key: seen.set()) as loop:
        loop.wake("fox")
        assert seen.wait(PATIENCE)


def test_what_lives_already_is_looked_at_first() -> None:
    seen: set[str] = set()
    both = threading.Event()

    def tick(key: str) -> None:
        seen.add(key)
        if seen == {"fox", "owl"}:
            both.set()

    with running(tick, lambda: ["fox", "owl"]):
        assert both.wait(PATIENCE)


def test_one_key_is_never_worked_on_twice_at_once_and_no_wake_is_lost() -> None:
    inside = threading.Semaphore(1)
    overlaps: list[str] = []
    begun, release, twice = threading.Event(), threading.Event(), threading.Event()
    count = [0]

    def tick(key: str) -> None:
        if not inside.acquire(blocking=False):
            overlaps.append(key)
            return
        count[0] += 1
        begun.set()
        assert release.wait(PATIENCE)
        inside.release()
        if count[0] == 2:
            twice.set()

    with running(tick, workers=4) as loop:
        loop.wake("fox")
        assert begun.wait(PATIENCE)
        for _ in range(5):
            loop.wake("fox")
        release.set()
        assert twice.wait(PATIENCE)
    assert (overlaps, count[0]) == ([], 2)


@pytest.mark.parametrize("error", [HostUnreachable("away"), ValueError("bug"), LeaseLost("late")])
def test_a_tick_that_fails_is_tried_again(error: Exception) -> None:
    tries: list[int] = []
    third = threading.Event()

    def tick(_key: str) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise error
        third.set()

    with running(tick) as loop:
        loop.wake("fox")
        assert third.wait(PATIENCE)


def test_a_tick_says_when_it_wants_to_look_again() -> None:
    ticks: list[str] = []
    again = threading.Event()

    def tick(key: str) -> timedelta | None:
        ticks.append(key)
        if len(ticks) == 3:
            again.set()
            return None
        return timedelta(milliseconds=5)

    with running(tick) as loop:
        loop.wake("fox", timedelta(milliseconds=5))
        assert again.wait(PATIENCE)


def test_a_loop_may_be_stopped_twice_and_before_it_began() -> None:
    loop: Loop[str] = Loop("test", lambda _key: None, list)
    loop.stop()
    loop.stop()


def test_an_activity_runs_once_until_its_outcome_is_forgotten() -> None:
    activities = Activities()
    runs: list[int] = []
    ended = threading.Semaphore(0)

    def ensure() -> None:
        activities.ensure("pull", "fox", lambda: runs.append(1), lambda: ended.release())

    ensure()
    assert ended.acquire(timeout=PATIENCE)
    ensure()
    assert (runs, activities.outcome("pull", "fox")) == ([1], True)
    activities.forget("fox", "pull")
    assert activities.outcome("pull", "fox") is None
    ensure()
    assert ended.acquire(timeout=PATIENCE)
    assert runs == [1, 1]


def test_an_activity_that_fails_hands_over_its_error() -> None:
    activities = Activities()
    ended = threading.Event()

    def fail() -> None:
        raise HostUnreachable("away")

    activities.ensure("pull", "fox", fail, ended.set)
    assert ended.wait(PATIENCE)
    assert isinstance(activities.outcome("pull", "fox"), HostUnreachable)


def test_stopped_activities_begin_nothing_more() -> None:
    activities = Activities()
    activities.stop()
    activities.ensure("pull", "fox", lambda: None, lambda: None)
    assert not activities.is_running("pull", "fox")


def test_however_often_it_is_woken_a_key_is_due_once() -> None:
    ticks: list[str] = []
    twenty = threading.Event()

    def tick(key: str) -> timedelta:
        ticks.append(key)
        if len(ticks) >= 20:
            twenty.set()
        return timedelta(hours=1)

    with running(tick, workers=1) as loop:
        while not twenty.is_set():
            loop.wake("fox")
        assert loop.due == ["fox"]


def test_the_earlier_of_two_times_to_look_again_is_kept() -> None:
    seen = threading.Event()
    delays = iter([timedelta(hours=1), timedelta(milliseconds=20)])

    def tick(_key: str) -> timedelta | None:
        delay = next(delays, None)
        if delay is None:
            seen.set()
        return delay

    with running(tick, workers=1) as loop:
        loop.wake("fox")
        loop.wake("fox", timedelta(milliseconds=10))
        assert seen.wait(PATIENCE)


def test_pauses_grow_with_every_try_and_end_by_the_clock_that_nobody_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("dstack_engine.reconcilers.loop.monotonic", lambda: now)
    pauses = Pauses(1.0, 5.0)
    assert not pauses.left("a"), "never tried"
    lasted = []
    for _ in range(3):
        pauses.begin("a")
        lasted.append(pauses.left("a").total_seconds())
        now += lasted[-1]
        assert not pauses.left("a")
    assert lasted == [1.0, 5.0, 5.0]
    pauses.begin("a")
    assert not pauses.left("b")
    pauses.forget("a")
    assert not pauses.left("a")
