"""Requests wait for a replica in the order they came, bounded, and are never lost or kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from dstack_engine.gateway.holding import FULL_RETRY_AFTER, Holding, NoReplica
from dstack_engine.gateway.replicas import Replica, Replicas
from dstack_engine.records.publication import PublishedReplica
from tests.gateway.front_ground import run, until


class Ground:
    """A service's replicas, none of them ready, and its queue."""

    def __init__(
        self, count: int = 1, on_first: Callable[[], None] = lambda: None, **bounds: float
    ):
        self.replicas = Replicas()
        self.holding = Holding("web", self.replicas, on_first=on_first, **bounds)  # type: ignore[arg-type]
        for number in range(count):
            told = PublishedReplica(f"web-0-{number}/1", "127.0.0.1", 8000 + number)
            self.replicas[told.job] = Replica(told, self._changed)

    def _changed(self, replica: Replica) -> None:
        self.replicas.sort_out()
        self.holding.release()

    @property
    def first(self) -> Replica:
        return next(iter(self.replicas.values()))

    async def wait(self, count: int, done: list[int] | None = None) -> list[asyncio.Task[Replica]]:
        """Let *count* requests wait, one after the other; their numbers go to *done*."""

        async def one(number: int) -> Replica:
            replica = await self.holding.hold()
            replica.begin()
            if done is not None:
                done.append(number)
            return replica

        tasks = [asyncio.create_task(one(number)) for number in range(count)]
        await until(lambda: self.holding.held == count)
        return tasks


def test_a_ready_replica_is_had_without_waiting() -> None:
    async def story() -> None:
        ground = Ground()
        ground.first.ready()
        assert await ground.holding.hold() is ground.first
        assert ground.holding.held == 0

    run(story())


def test_who_waits_goes_on_in_the_order_of_coming_when_a_replica_is_ready() -> None:
    async def story() -> None:
        ground, done = Ground(), []  # type: ignore[var-annotated]
        tasks = await ground.wait(50, done)
        ground.first.ready()
        assert await asyncio.gather(*tasks) == [ground.first] * 50
        assert done == list(range(50))
        assert ground.first.in_flight == 50
        assert ground.holding.held == 0

    run(story())


def test_many_that_waited_are_spread_over_what_is_ready() -> None:
    async def story() -> None:
        ground = Ground(count=3)
        tasks = await ground.wait(99)
        for replica in ground.replicas.values():
            replica.state = type(replica.state).READY
        ground.replicas.sort_out()
        ground.holding.release()
        chosen = Counter(await asyncio.gather(*tasks))
        assert set(chosen.values()) == {33}
        assert all(replica.in_flight == 33 for replica in ground.replicas.values())

    run(story())


def test_the_first_that_waits_is_told_of_and_the_others_are_not() -> None:
    async def story() -> None:
        calls: list[None] = []
        ground = Ground(on_first=lambda: calls.append(None))
        await ground.wait(3)
        assert len(calls) == 1

    run(story())


def test_beyond_the_bound_nobody_is_let_in() -> None:
    async def story() -> None:
        ground = Ground(queue_limit=2)
        await ground.wait(2)
        with pytest.raises(NoReplica, match="2 requests already wait") as refused:
            await ground.holding.hold()
        assert refused.value.retry_after == FULL_RETRY_AFTER
        assert ground.holding.held == 2

    run(story())


def test_a_wait_in_vain_ends_and_says_why() -> None:
    async def story() -> None:
        ground = Ground(wait_limit=0.05)
        ground.holding.allow("replica 0 failed: exit code 1")
        with pytest.raises(NoReplica, match="exit code 1"):
            await ground.holding.hold()
        assert ground.holding.held == 0

    run(story())


def test_where_nothing_is_coming_nobody_waits_and_those_are_sent_away_who_do() -> None:
    async def story() -> None:
        ground = Ground()
        tasks = await ground.wait(3)
        ground.holding.refuse("web is being stopped.")
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["web is being stopped."] * 3
        with pytest.raises(NoReplica, match="being stopped"):
            await ground.holding.hold()
        ground.holding.allow()
        await ground.wait(1)

    run(story())


def test_who_goes_away_leaves_the_queue() -> None:
    async def story() -> None:
        ground = Ground()
        tasks = await ground.wait(3)
        tasks[1].cancel()
        await until(lambda: ground.holding.held == 2)
        ground.first.ready()
        await asyncio.gather(tasks[0], tasks[2])
        assert ground.first.in_flight == 2

    run(story())


def test_who_goes_away_just_when_it_is_given_a_replica_gives_it_back() -> None:
    async def story() -> None:
        ground = Ground()
        (task,) = await ground.wait(1)
        ground.first.ready()  # decided, but the task has not run yet
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert ground.first.in_flight == 0

    run(story())


def test_one_that_is_to_be_avoided_is_taken_after_all_when_no_other_comes() -> None:
    async def story() -> None:
        ground = Ground()
        ground.first.ready()
        assert await ground.holding.hold([ground.first]) is ground.first
        assert ground.holding.held == 0
        assert ground.first.in_flight == 0

    run(story())


def test_who_waits_is_told_how_long_it_has_been(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack_engine.gateway.holding.TOLD_EVERY", 0.02)

    async def story() -> None:
        ground, told = Ground(), []

        async def on_wait(seconds: float) -> None:
            told.append(seconds)

        task = asyncio.create_task(ground.holding.hold(on_wait=on_wait))
        await until(lambda: len(told) >= 3)
        ground.first.ready()
        await task
        assert told == sorted(told)
        assert told[0] >= 0.02

    run(story())


def test_a_client_that_is_found_gone_while_it_is_told_leaves_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dstack_engine.gateway.holding.TOLD_EVERY", 0.02)

    async def story() -> None:
        ground = Ground()

        async def on_wait(seconds: float) -> None:
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await ground.holding.hold(on_wait=on_wait)
        assert ground.holding.held == 0

    run(story())
