"""Requests wait here while their service has no ready replica.

The first come is the first to go on, at the moment a replica is ready; many are spread over what is
ready. The queue is bounded, and so is the wait. Used by `table.Service`, one queue for each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection

from dstack_engine.gateway.counts import Clock
from dstack_engine.gateway.replicas import Replica, Replicas

#: Requests that wait for one service at most.
QUEUE_LIMIT = 1000
#: How long a request waits at most, in seconds: an image is pulled and a model loaded in less.
WAIT_LIMIT = 600.0
#: How often `on_wait` is called, in seconds.
TOLD_EVERY = 5.0
#: A replica that a request has met failing is tried again after so long (s) if none other comes.
SECOND_THOUGHT = 0.25
#: `Retry-After` for who is refused, in seconds: the queue is full; nothing is being started.
FULL_RETRY_AFTER = 10
STOPPED_RETRY_AFTER = 60

OnWait = Callable[[float], Awaitable[None]]


class NoReplica(Exception):
    """A request that cannot be answered, and is not to wait (any longer): a 503."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        #: A sentence for the client.
        self.message = message
        #: Seconds after which trying again may help.
        self.retry_after = retry_after


class Holding:
    """The requests of one service that wait for a replica."""

    def __init__(
        self,
        run: str,
        replicas: Replicas,
        *,
        on_first: Callable[[], None] = lambda: None,
        clock: Clock = time.monotonic,
        queue_limit: int = QUEUE_LIMIT,
        wait_limit: float = WAIT_LIMIT,
    ) -> None:
        self._run = run
        self._replicas = replicas
        self._on_first = on_first
        self._clock = clock
        self._queue_limit = queue_limit
        self._wait_limit = wait_limit
        self._waiting: dict[asyncio.Future[Replica], None] = {}  # in the order they came
        self._refusal: NoReplica | None = None
        self._trouble: str | None = None

    @property
    def held(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def allow(self, trouble: str | None = None) -> None:
        """Let requests wait; *trouble* is told to whom has waited in vain."""
        self._refusal, self._trouble = None, trouble

    def refuse(self, why: str, retry_after: int = STOPPED_RETRY_AFTER) -> None:
        """Let nobody wait, and send those away who do, to try again after so many seconds."""
        self._refusal = NoReplica(why, retry_after)
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(NoReplica(why, retry_after))
        self._waiting.clear()

    def release(self) -> None:
        """Give what waits to what is ready; called when a replica has become so."""
        while self._waiting and self._replicas.ready:
            waiting = next(iter(self._waiting))
            del self._waiting[waiting]
            replica = self._replicas.choose()
            if replica is not None and not waiting.done():
                replica.in_flight += 1  # until `hold` hands it on, so that the next goes elsewhere
                waiting.set_result(replica)

    async def hold(self, avoid: Collection[Replica] = (), on_wait: OnWait | None = None) -> Replica:
        """Return a replica, at once or when one is ready.

        Raises `NoReplica` when nobody may wait, the queue is full or the wait was too long. What
        *on_wait* raises ends the wait; so does cancelling.
        """
        replica = self._replicas.choose(avoid)
        if replica is not None:
            return replica
        waiting = self._enter()
        try:
            replica = await self._wait(waiting, on_wait, impatient=bool(avoid))
        except BaseException:
            self._leave(waiting)
            raise
        return replica

    def _enter(self) -> asyncio.Future[Replica]:
        if self._refusal is not None:
            raise NoReplica(self._refusal.message, self._refusal.retry_after)
        if len(self._waiting) >= self._queue_limit:
            raise NoReplica(
                f"{self._run} has no replica ready, and {self._queue_limit} requests already wait"
                " for one. Try again soon.",
                FULL_RETRY_AFTER,
            )
        waiting: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = None
        if len(self._waiting) == 1:
            self._on_first()
        return waiting

    def _leave(self, waiting: asyncio.Future[Replica]) -> None:
        """Forget one that goes away; a replica it was given in that moment is given back."""
        self._waiting.pop(waiting, None)
        if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
            waiting.result().in_flight -= 1
        waiting.cancel()

    async def _wait(
        self, waiting: asyncio.Future[Replica], on_wait: OnWait | None, impatient: bool
    ) -> Replica:
        begun = self._clock()
        told = begun
        while True:
            now = self._clock()
            left = begun + self._wait_limit - now
            if left <= 0:
                raise self._too_long()
            pause = min(left, told + TOLD_EVERY - now, SECOND_THOUGHT if impatient else left)
            await asyncio.wait([waiting], timeout=max(pause, 0))
            if waiting.done():
                replica = waiting.result()
                replica.in_flight -= 1
                return replica
            if impatient and (again := self._replicas.choose()) is not None:
                self._leave(waiting)
                return again
            if self._clock() >= told + TOLD_EVERY:
                told = self._clock()
                if on_wait is not None:
                    await on_wait(told - begun)

    def _too_long(self) -> NoReplica:
        why = f": {self._trouble}" if self._trouble else ""
        return NoReplica(
            f"No replica of {self._run} became ready within {self._wait_limit:.0f} s{why}.",
            FULL_RETRY_AFTER,
        )
