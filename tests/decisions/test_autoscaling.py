"""How many replicas a service is to have, driven by traces with a clock of their own."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_engine.decisions.autoscaling import Demand, demand_of, scale
from dstack_engine.records.publication import Load, ServiceReport
from dstack_engine.records.services import ServiceState
from dstack_engine.spec.services import Replicas, Scaling
from tests.decisions.samples import NOON

SECOND = timedelta(seconds=1)


def scaling(**written: object) -> Scaling:
    return Scaling.model_validate({"metric": "rps", "target": 10, **written})


def up_to(text: str) -> Replicas:
    return Replicas.model_validate(text)


@dataclass(frozen=True)
class Request:
    """One request of a trace, in seconds from its beginning."""

    at: float
    lasts: float = 0.1


def steady(rps: float, start: float, end: float, lasts: float = 0.1) -> list[Request]:
    """Return requests at an even rate."""
    count = int((end - start) * rps)
    return [Request(start + number / rps, lasts) for number in range(count)]


def load_at(requests: list[Request], now: float, window: int) -> Demand:
    """Return what a gateway would report: a request ends when it has lasted, replica or none."""
    begun = now - window
    # Sorted by their beginning, as a trace is.
    last = bisect_right(requests, now, key=lambda one: one.at)
    first = bisect_left(requests, begun - requests[0].lasts, key=lambda one: one.at)
    known = requests[first:last]
    arrivals = sum(one.at > begun for one in known)
    carried = sum(one.at <= begun < one.at + one.lasts for one in known)
    overlap = sum(max(min(one.at + one.lasts, now) - max(one.at, begun), 0) for one in known)
    under_way = sum(one.at + one.lasts > now for one in known)
    return Demand(Load(window, arrivals, carried, overlap / window), in_flight=under_way)


Trace = dict[int, int]


def run_trace(
    requests: list[Request], replicas: str, rule: Scaling, seconds: int, begin: int | None = None
) -> Trace:
    """Return the number of replicas from each second at which it changed."""
    limits = up_to(replicas)
    state = ServiceState(desired=limits.min if begin is None else begin)
    trace = {0: state.desired}
    for second in range(1, seconds):
        demand = load_at(requests, second, rule.window)
        after = scale(state, limits, rule, demand, NOON + second * SECOND)
        if after.desired != state.desired:
            trace[second] = after.desired
        state = after
    return trace


def documented(
    requests: list[Request], replicas: str, rule: Scaling, seconds: int, begin: int | None = None
) -> Trace:
    """Return the same by dstack's documented rule.

    Requests count in the second in which they end, those that wait for nothing included; a delay
    is the time since the last scaling that was done.
    """
    limits = up_to(replicas)
    active, last = limits.min if begin is None else begin, 0
    ends = sorted(one.at + one.lasts for one in requests)
    trace = {0: active}
    for second in range(1, seconds):
        ended = bisect_right(ends, second) - bisect_right(ends, second - rule.window)
        target = math.ceil(ended / rule.window / rule.target)
        target = min(max(target, limits.min), limits.max)
        delay = rule.scale_up_delay if target > active else rule.scale_down_delay
        at_once = active == 0 and target > 0
        if target != active and (at_once or second - last >= delay):
            active, last = target, second
            trace[second] = active
    return trace


# --- compared with dstack ------------------------------------------------------------------------


def test_a_load_that_rises_and_stays_is_followed_to_the_same_number() -> None:
    requests = steady(1, 0, 300) + steady(5, 300, 1000)
    rule = scaling(target=2, scale_up_delay=60)
    ours, theirs = (one(requests, "1..4", rule, 1000) for one in (run_trace, documented))
    assert list(ours.values()) == [1, 3]
    assert max(theirs.values()) == max(ours.values()) == 3


def test_intended_deviation_a_long_stream_is_load() -> None:
    requests = [Request(5, lasts=1500)]
    rule = scaling(target=1, scale_down_delay=300)
    ours = run_trace(requests, "0..1", rule, 3000)
    theirs = documented(requests, "0..1", rule, 3000)
    assert ours[5] == 1
    assert min(second for second, number in ours.items() if second > 5 and number == 0) >= 1505
    # There it counts for nothing before its end, when it is over.
    assert min(second for second, number in theirs.items() if number == 1) >= 1505


def test_intended_deviation_a_short_lull_ends_no_replica() -> None:
    requests = steady(5, 0, 1200) + steady(5, 1290, 2000)
    rule = scaling(target=2, scale_down_delay=600)
    assert run_trace(requests, "1..4", rule, 2000, begin=3) == {0: 3}
    theirs = documented(requests, "1..4", rule, 2000, begin=3)
    assert any(number < 3 for second, number in theirs.items() if 1200 < second < 1300)


def test_intended_deviation_a_short_peak_starts_no_replica() -> None:
    requests = sorted(steady(1, 0, 1000) + steady(8, 500, 520), key=lambda one: one.at)
    rule = scaling(target=2, scale_up_delay=300)
    assert run_trace(requests, "1..4", rule, 1000) == {0: 1}
    theirs = documented(requests, "1..4", rule, 1000)
    assert any(number > 1 for number in theirs.values())


def test_intended_deviation_the_first_request_starts_a_replica_while_it_waits() -> None:
    requests = [Request(100, lasts=40)]
    ours = run_trace(requests, "0..4", scaling(), 300)
    theirs = documented(requests, "0..4", scaling(), 300)
    assert ours[100] == 1
    assert 100 not in theirs
    assert theirs[140] == 1


def test_as_documented_it_jumps_straight_to_the_number_both_ways() -> None:
    requests = steady(7, 0, 500)
    rule = scaling(target=2, scale_up_delay=30, scale_down_delay=60)
    for one in (run_trace, documented):
        assert list(one(requests, "1..8", rule, 900).values())[-1] == 1
    ours = list(run_trace(requests, "1..8", rule, 900).values())
    assert ours[0] == ours[-1] == 1
    assert 4 in ours


# --- the rule itself -----------------------------------------------------------------------------


def test_ten_quiet_minutes_scale_to_zero_and_say_so() -> None:
    state = ServiceState(desired=1)
    rule, limits = scaling(), up_to("0..2")
    quiet = Demand(Load(60))
    state = scale(state, limits, rule, quiet, NOON)
    assert (state.desired, state.below_since) == (1, NOON)
    late = NOON + timedelta(minutes=10)
    assert scale(state, limits, rule, quiet, late - SECOND).desired == 1
    state = scale(state, limits, rule, quiet, late)
    assert (state.desired, state.scaled_at) == (0, late)
    assert state.scaled_why == "1 → 0: no request for 11 min"


def test_the_last_replica_stays_while_anything_is_answered_or_held() -> None:
    state = ServiceState(desired=1, below_since=NOON)
    for demand in (Demand(Load(60), held=1), Demand(Load(60), in_flight=1)):
        after = scale(state, up_to("0..2"), scaling(), demand, NOON + timedelta(hours=1))
        assert after == ServiceState(desired=1)


def test_a_held_request_starts_a_replica_at_once_and_as_many_as_the_load_needs() -> None:
    rule = scaling(metric="concurrency", target=4)
    after = scale(ServiceState(desired=0), up_to("0..8"), rule, Demand(Load(60), held=9), NOON)
    assert (after.desired, after.scaled_why) == (
        3,
        "0 → 3: 9 requests under way, 4 for each replica",
    )


def test_concurrency_rises_by_what_is_under_way_and_falls_by_the_average() -> None:
    rule = scaling(metric="concurrency", target=2, scale_up_delay=0, scale_down_delay=0)
    limits = up_to("1..9")
    busy = Demand(Load(60, concurrency=1.0), in_flight=8)
    assert scale(ServiceState(desired=1), limits, rule, busy, NOON).desired == 4
    lull = Demand(Load(60, concurrency=7.5), in_flight=0)
    assert scale(ServiceState(desired=4), limits, rule, lull, NOON).desired == 4


def test_the_words_say_the_load_and_the_target() -> None:
    rule = scaling(scale_up_delay=0)
    after = scale(ServiceState(desired=1), up_to("1..4"), rule, Demand(Load(60, 1500)), NOON)
    assert after.scaled_why == "1 → 3: 25 requests a second, 10 for each replica"


def test_a_new_range_is_kept_at_once_without_any_load() -> None:
    state = ServiceState(desired=1, above_since=NOON)
    assert scale(state, up_to("3"), None, None, NOON).desired == 3
    assert scale(ServiceState(desired=9), up_to("1..4"), scaling(), None, NOON).desired == 4


def test_without_a_gateway_the_number_stays_and_no_delay_runs_on() -> None:
    state = ServiceState(desired=2, below_since=NOON)
    late = NOON + timedelta(hours=1)
    assert scale(state, up_to("0..4"), scaling(), None, late) == ServiceState(desired=2)


def test_a_clock_that_was_set_back_makes_nobody_wait_for_it() -> None:
    rule, limits, quiet = scaling(scale_down_delay=60), up_to("0..2"), Demand(Load(60))
    state = ServiceState(desired=1, below_since=NOON + timedelta(hours=1))
    state = scale(state, limits, rule, quiet, NOON)
    assert state.below_since == NOON
    assert scale(state, limits, rule, quiet, NOON + timedelta(minutes=1)).desired == 0


def test_the_demand_is_that_of_the_window_that_the_author_wrote() -> None:
    loads = (Load(30, 1), Load(60, 2), Load(300, 3))
    report = ServiceReport("fox", "1", loads=loads, held=4, in_flight=5)
    assert demand_of(report, scaling(window="5m")) == Demand(loads[2], 4, 5)
    assert demand_of(report, None) is None
    assert demand_of(None, scaling()) is None


# --- whatever the load ---------------------------------------------------------------------------

LOADS = st.lists(
    st.tuples(st.integers(0, 3000), st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=60
)
RULES = st.builds(
    lambda metric, target, up, down: scaling(
        metric=metric, target=target, scale_up_delay=up, scale_down_delay=down
    ),
    st.sampled_from(["rps", "concurrency"]),
    st.sampled_from([0.5, 1, 10, 1000]),
    st.sampled_from([0, 7, 300]),
    st.sampled_from([0, 7, 600]),
)


@given(loads=LOADS, rule=RULES, least=st.integers(0, 3), more=st.integers(1, 5))
def test_whatever_comes_it_stays_in_its_range_and_keeps_its_delays(
    loads: list[tuple[int, int, int]], rule: Scaling, least: int, more: int
) -> None:
    limits = Replicas(min=least, max=least + more)
    state = ServiceState(desired=least)
    history = [(NOON, state.desired)]
    for number, (arrivals, held, in_flight) in enumerate(loads):
        now = NOON + number * SECOND
        load = Load(60, arrivals, 0, arrivals / 60)
        after = scale(state, limits, rule, Demand(load, held, in_flight), now)
        assert limits.min <= after.desired <= limits.max
        if held + in_flight:
            assert after.desired > 0 or state.desired > 0 or limits.max == 0
            assert after.desired > 0
        if after.desired != state.desired:
            rose = after.desired > state.desired
            delay = rule.scale_up_delay if rose and state.desired else 0
            delay = delay if rose else rule.scale_down_delay
            # Since the last scaling, the condition has held for the delay at least.
            assert len(history) == 1 or now - history[-1][0] >= delay * SECOND
            assert after.scaled_at == now
            history.append((now, after.desired))
        state = after


@given(arrivals=st.integers(0, 5000), desired=st.integers(0, 8))
def test_the_number_settles_and_then_stays(arrivals: int, desired: int) -> None:
    rule, limits = scaling(scale_up_delay=0, scale_down_delay=0), up_to("0..8")
    demand = Demand(Load(60, arrivals))
    once = scale(ServiceState(desired=desired), limits, rule, demand, NOON)
    assert scale(once, limits, rule, demand, NOON) == replace(once)


@pytest.mark.parametrize("metric", ["rps", "concurrency"])
def test_more_load_never_asks_for_fewer(metric: str) -> None:
    rule, limits = scaling(metric=metric, scale_up_delay=0, scale_down_delay=0), up_to("0..50")
    wanted: Callable[[int], int] = lambda n: (  # noqa: E731 - a table of one row
        scale(ServiceState(desired=25), limits, rule, Demand(Load(60, n, 0, n / 10)), NOON).desired
    )
    numbers = [wanted(n) for n in range(0, 6000, 100)]
    assert numbers == sorted(numbers)
