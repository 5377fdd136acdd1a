"""What a service is asked is counted right, in any window, at any moment."""

from __future__ import annotations

import random

import pytest

from dstack_engine.gateway.counts import Counts, Times, Visit
from dstack_engine.records.publication import Load
from dstack_engine.spec.services import WINDOWS


class ATime:
    """A clock that goes when it is told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> ATime:
    return ATime()


def load_over(counts: Counts, window: int) -> Load:
    return next(load for load in counts.loads() if load.window == window)


def test_arrivals_count_in_every_window_that_is_long_enough(clock: ATime) -> None:
    counts = Counts(clock)
    for _ in range(3):
        counts.arrive().close()
    clock.now += 45
    counts.arrive().close()
    assert [load.arrivals for load in counts.loads()] == [1, 4, 4]
    clock.now += 290
    assert [load.arrivals for load in counts.loads()] == [0, 0, 1]


def test_a_long_stream_is_carried_into_windows_in_which_it_did_not_arrive(clock: ATime) -> None:
    counts = Counts(clock)
    stream = counts.arrive()
    clock.now += 40
    assert load_over(counts, 30) == Load(30, arrivals=0, carried=1, concurrency=1.0)
    assert load_over(counts, 60).carried == 0
    stream.close()
    clock.now += 31
    assert load_over(counts, 30) == Load(30)


def test_concurrency_is_averaged_over_time(clock: ATime) -> None:
    counts = Counts(clock)
    clock.now += 100
    first, second = counts.arrive(), counts.arrive()
    clock.now += 15
    first.close()
    clock.now += 15
    second.close()
    assert load_over(counts, 30).concurrency == pytest.approx((2 * 15 + 15) / 30)
    assert load_over(counts, 60).concurrency == pytest.approx((2 * 15 + 15) / 60)


def test_hours_without_a_request_leave_nothing_behind(clock: ATime) -> None:
    counts = Counts(clock)
    counts.arrive().close()
    clock.now += 3 * 3600
    assert counts.loads() == tuple(Load(window) for window in WINDOWS)
    counts.arrive()
    assert [load.arrivals for load in counts.loads()] == [1, 1, 1]


def test_the_rate_is_that_of_the_last_ten_seconds(clock: ATime) -> None:
    counts = Counts(clock)
    for _ in range(100):
        counts.arrive().close()
        clock.now += 0.1
    assert counts.rps() == pytest.approx(10, rel=0.05)
    clock.now += 11
    assert counts.rps() == 0


def test_a_visit_counts_once_whatever_is_said_of_it_twice(clock: ATime) -> None:
    counts = Counts(clock)
    visit = counts.arrive()
    assert counts.under_way == 1
    visit.first_byte()
    clock.now += 5
    visit.first_byte()
    visit.close(failed=True)
    visit.close()
    assert (counts.under_way, counts.requests, counts.errors) == (0, 1, 1)
    assert counts.percentiles() == pytest.approx((0, 0), abs=0.001)


def test_any_traffic_is_counted_as_a_list_of_all_requests_would(clock: ATime) -> None:
    """Compare with the plain sum over every request, which is too slow to be used."""
    lot = random.Random(7)
    counts = Counts(clock)
    lives: list[tuple[float, float | None]] = []
    open_visits: list[tuple[int, Visit]] = []
    for _ in range(4000):
        clock.now += lot.expovariate(8)
        if open_visits and lot.random() < 0.5:
            number, visit = open_visits.pop(lot.randrange(len(open_visits)))
            visit.close()
            lives[number] = (lives[number][0], clock.now)
        else:
            open_visits.append((len(lives), counts.arrive()))
            lives.append((clock.now, None))
    for window in WINDOWS:
        load = load_over(counts, window)
        since = clock.now - window
        arrivals = sum(1 for begun, _ in lives if begun >= since)
        alive = sum(1 for begun, end in lives if begun < since and (end or clock.now) > since)
        area = sum(
            max(0.0, (clock.now if end is None else end) - max(begun, since))
            for begun, end in lives
        )
        # A window begins at the nearest quarter of a second: so few can lie between.
        assert load.arrivals == pytest.approx(arrivals, abs=6)
        assert load.carried == pytest.approx(alive, abs=6)
        assert load.concurrency == pytest.approx(area / window, rel=0.02)


def test_no_request_is_lost_or_counted_twice_at_a_windows_beginning(clock: ATime) -> None:
    counts = Counts(clock)
    counts.arrive()
    for _ in range(2500):
        load = load_over(counts, 30)
        assert load.arrivals + load.carried == 1
        clock.now += 0.013


def test_percentiles_are_counted_anew_twice_a_second(clock: ATime) -> None:
    counts = Counts(clock)
    assert counts.percentiles() == (None, None)
    visit = counts.arrive()
    clock.now += 0.2
    visit.first_byte()
    assert counts.percentiles() == (None, None)
    clock.now += 0.4
    assert counts.percentiles() == pytest.approx((0.2, 0.2), rel=0.025)


@pytest.mark.parametrize("seconds", [0.0002, 0.004, 0.7, 12.0, 600.0])
def test_a_percentile_is_right_within_a_fortieth(seconds: float) -> None:
    clock = ATime()
    times = Times(clock)
    for _ in range(99):
        times.add(seconds)
    times.add(1500.0)
    assert times.percentiles((0.5, 0.95, 1.0)) == pytest.approx([seconds, seconds, 1500], rel=0.025)


def test_percentiles_forget_what_is_older_than_a_minute_and_hold_little() -> None:
    clock = ATime()
    times = Times(clock)
    assert times.percentiles((0.5,)) == [None]
    for _ in range(5000):
        times.add(1.0)
        clock.now += 1
    assert len(times._slices) <= 7
    clock.now += 70
    assert times.percentiles((0.5,)) == [None]
