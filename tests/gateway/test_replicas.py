"""The replica that gets a request is the least busy one that is well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from dstack_engine.gateway import replicas as module
from dstack_engine.gateway.replicas import FAILURES, FIRST_REST, LONGEST_REST, Replica, Replicas
from dstack_engine.records.publication import PublishedReplica, ReplicaState


class ATime:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def a_replica(
    number: int = 0, on_change: Callable[[Replica], None] | None = None, clock: ATime | None = None
) -> Replica:
    told = PublishedReplica(f"web-0-{number}/1", "127.0.0.1", 8000 + number)
    return Replica(told, on_change or (lambda replica: None), clock or ATime())


def some(count: int) -> Replicas:
    """Return *count* ready replicas."""
    all_of_them = Replicas()
    for number in range(count):
        replica = a_replica(number, lambda _: all_of_them.sort_out())
        all_of_them[replica.job] = replica
        replica.ready()
    return all_of_them


def test_the_least_busy_one_is_chosen() -> None:
    replicas = some(3)
    busy, free, busier = replicas.values()
    busy.begin()
    busier.begin()
    busier.begin()
    assert {replicas.choose() for _ in range(20)} == {free}
    free.begin()
    free.begin()
    assert {replicas.choose() for _ in range(20)} == {busy}


def test_among_equals_the_lot_decides_fairly() -> None:
    replicas = some(4)
    chosen = Counter(replicas.choose() for _ in range(4000))
    assert set(chosen) == set(replicas.values())
    assert all(800 < count < 1200 for count in chosen.values())


def test_one_that_is_to_be_avoided_is_not_chosen() -> None:
    replicas = some(2)
    first, second = replicas.values()
    second.begin()
    assert replicas.choose([first]) is second
    assert replicas.choose([first, second]) is None
    assert some(1).choose() is not None


@pytest.mark.parametrize("state", ["probing", "draining"])
def test_one_that_is_not_ready_is_not_chosen(state: str) -> None:
    replicas = some(1)
    other = a_replica(5, lambda _: replicas.sort_out())
    replicas[other.job] = other
    if state == "draining":
        other.ready()
        other.drain()
    replicas["web-0-0/1"].begin()
    assert {replicas.choose() for _ in range(20)} == {replicas["web-0-0/1"]}


def test_failures_in_a_row_put_a_replica_out_and_a_good_answer_between_them_does_not() -> None:
    replica = a_replica()
    replica.ready()
    for _ in range(FAILURES - 1):
        replica.begin()
        replica.end(failed=True)
    replica.begin()
    replica.end(failed=False)
    for number in range(FAILURES):
        assert replica.state is ReplicaState.READY, number
        replica.begin()
        replica.end(failed=True)
    assert replica.state is ReplicaState.EJECTED
    assert replica.report().trouble == f"{FAILURES} requests in a row failed"
    assert (replica.requests, replica.errors, replica.in_flight) == (6, 5, 0)


def test_a_refused_connection_puts_a_replica_out_at_once() -> None:
    replica = a_replica()
    replica.ready()
    replica.begin()
    replica.end(failed=True, refused=True)
    assert replica.state is ReplicaState.EJECTED
    assert replica.trouble == "connection refused"


def test_a_failure_has_the_prober_look_at_once() -> None:
    replica = a_replica()
    replica.ready()
    assert not replica.suspect.is_set()
    replica.begin()
    replica.end(failed=True)
    assert replica.suspect.is_set()


def test_where_all_are_out_the_least_busy_that_takes_connections_is_the_last_resort() -> None:
    replicas = some(3)
    failing, failing_too, dead = replicas.values()
    failing.failing("the probe / answers 503", reachable=True)
    failing_too.failing("the probe / answers 503", reachable=True)
    dead.failing("connection refused", reachable=False)
    failing.begin()
    assert {replicas.choose() for _ in range(20)} == {failing_too}
    assert replicas.choose([failing, failing_too]) is None


def test_a_replica_that_is_dead_is_never_chosen_so_that_requests_wait_for_its_successor() -> None:
    replicas = some(1)
    replicas["web-0-0/1"].failing("connection refused", reachable=False)
    assert replicas.choose() is None


def test_each_ejection_doubles_the_rest_and_a_long_good_time_makes_it_short_again() -> None:
    clock = ATime()
    replica = a_replica(clock=clock)
    rests = []
    for _ in range(8):
        replica.ready()
        clock.now += 1
        replica.failing("the probe / answers 500", reachable=True)
        rests.append(replica.rest)
        clock.now += replica.rest
    assert rests[:3] == [FIRST_REST, 2 * FIRST_REST, 4 * FIRST_REST]
    assert rests[-1] == LONGEST_REST
    replica.ready()
    clock.now += module.FORGIVEN_AFTER + 1
    replica.failing("the probe / answers 500", reachable=True)
    assert replica.rest == FIRST_REST


def test_a_draining_replica_tells_when_it_has_answered_everything() -> None:
    told: list[tuple[ReplicaState, int]] = []
    replica = a_replica(on_change=lambda r: told.append((r.state, r.in_flight)))
    replica.ready()
    replica.begin()
    replica.begin()
    replica.drain()
    replica.end(failed=False)
    replica.end(failed=True)
    assert told == [
        (ReplicaState.READY, 0),
        (ReplicaState.DRAINING, 2),
        (ReplicaState.DRAINING, 0),
    ]


def test_probes_do_not_bring_a_draining_replica_back() -> None:
    replica = a_replica()
    replica.drain()
    replica.ready()
    assert replica.report().state == "draining"
    replica.resume()
    assert replica.report().state == "probing"
