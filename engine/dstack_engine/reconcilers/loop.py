"""Queue, look, decide, save, act, back off: the engine's only module that knows threads and sleep.

A `Loop` gives every key to one worker at a time, however often it is woken meanwhile. `Activities`
are the long acts (a pull, a container's whole life) that have a thread of their own and wake the
loop when they end. What an activity found out is only remembered in memory: after a crash it is
simply done again, since every hand's verb may be repeated.
"""

from __future__ import annotations

import heapq
import logging
import math
import threading
from collections.abc import Callable, Collection, Hashable
from datetime import datetime, timedelta, timezone
from time import monotonic
from typing import Generic, TypeVar

from dstack_engine.errors import HostUnreachable, LeaseLost

logger = logging.getLogger(__name__)

#: A loop looks at every living record at least this often, in case a wake-up was lost.
SAFETY_TICK = timedelta(seconds=15)

#: After the n-th failure in a row a key waits this long before it is tried again.
BACK_OFF = (0.05, 0.2, 1.0, 2.0, 5.0, 10.0, 30.0)

K = TypeVar("K", bound=Hashable)


#: Tells the time, UTC; `testing.FakeClock` is another one.
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time by the computer's clock."""
    return datetime.now(timezone.utc)


class Stopwatch:
    """How long things have lasted, by CLOCK_MONOTONIC.

    A clock that is set wrong or right, and the time that a computer sleeps, do not count: what
    runs here does not run then either. What began before this engine did is reckoned by the clock,
    once.
    """

    def __init__(self) -> None:
        """Start with nothing measured."""
        self._lock = threading.Lock()
        self._begun: dict[str, tuple[datetime, float]] = {}

    def elapsed(self, key: str, since: datetime, now: datetime) -> timedelta:
        """Return how long *key* has lasted, which began at *since*; another *since* is anew."""
        here = monotonic()
        with self._lock:
            known = self._begun.get(key)
            if known is None or known[0] != since:
                before = max((now - since).total_seconds(), 0.0)
                known = self._begun[key] = (since, here - before)
        return timedelta(seconds=here - known[1])

    def forget(self, key: str) -> None:
        """Measure *key* no more."""
        with self._lock:
            self._begun.pop(key, None)


class Pauses:
    """When what is tried again and again may be tried next, by key, by CLOCK_MONOTONIC."""

    def __init__(self, *seconds: float) -> None:
        """Wait so long after the first try, the second, …; after the last as after every later."""
        self._seconds = seconds
        self._lock = threading.Lock()
        self._tries: dict[str, tuple[int, float]] = {}

    def begin(self, key: str) -> None:
        """Note that *key* was tried now."""
        with self._lock:
            tries = self._tries.get(key, (0, 0.0))[0]
            seconds = self._seconds[min(tries, len(self._seconds) - 1)]
            self._tries[key] = (tries + 1, monotonic() + seconds)

    def left(self, key: str) -> timedelta:
        """Return how long until *key* may be tried; 0 where it may be now."""
        with self._lock:
            due_at = self._tries.get(key, (0, 0.0))[1]
        return timedelta(seconds=max(due_at - monotonic(), 0.0))

    def forget(self, key: str) -> None:
        """Let *key* be tried at once, and wait after it as after a first try."""
        with self._lock:
            self._tries.pop(key, None)


#: Called between any two steps of a beat with the name of the step just done: the place where a
#: test kills the engine.
Checkpoint = Callable[[str], None]


def no_checkpoint(_step: str) -> None:
    """Do nothing: the checkpoint of an engine that is not being tested."""


class Loop(Generic[K]):
    """One queue, a few workers, one function: `tick(key)`, which returns when to look again."""

    def __init__(
        self,
        name: str,
        tick: Callable[[K], timedelta | None],
        list_keys: Callable[[], Collection[K]],
        *,
        workers: int = 2,
    ) -> None:
        """Make the loop; nothing runs before `start`."""
        self._name = name
        self._tick = tick
        self._list_keys = list_keys
        self._changed = threading.Condition()
        self._ready: dict[K, None] = {}
        self._running: set[K] = set()
        self._again: set[K] = set()
        self._due: list[tuple[float, int, K]] = []
        self._due_count = 0
        #: When each key is due; what the heap holds besides is out of date.
        self._due_at: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{n}", daemon=True)
            for n in range(workers)
        ]
        self._threads.append(
            threading.Thread(target=self._keep_time, name=f"{name}-time", daemon=True)
        )

    def start(self) -> None:
        """Begin to work; every living record is looked at first."""
        self.wake_all()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the ticks under way and end; may be called twice, or before `start`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(timeout=5)

    def wake(self, key: K, delay: timedelta | None = None) -> None:
        """Look at *key* soon, or after *delay*."""
        with self._changed:
            if delay is not None and delay > timedelta(0):
                self._schedule(key, delay.total_seconds())
            elif key in self._running:
                self._again.add(key)
            else:
                self._ready[key] = None
            self._changed.notify_all()

    def wake_all(self) -> None:
        """Look at every living record soon."""
        for key in self._list_keys():
            self.wake(key)

    @property
    def due(self) -> list[K]:
        """Return the keys that are to be looked at again at a time of theirs, the first first."""
        with self._changed:
            return [key for _, _, key in sorted(self._due, key=lambda entry: entry[:2])]

    def _schedule(self, key: K, seconds: float) -> None:
        """Have the key due then, unless it is earlier: its tick says anew when to look again."""
        due_at = monotonic() + seconds
        if due_at >= self._due_at.get(key, math.inf):
            return
        self._due_at[key] = due_at
        self._due_count += 1
        heapq.heappush(self._due, (due_at, self._due_count, key))

    def _work(self) -> None:
        while (key := self._take()) is not None:
            try:
                delay = self._tick(key)
                self._failures.pop(key, None)
            except LeaseLost:
                delay = timedelta(0)
            except HostUnreachable as error:
                delay = self._back_off(key)
                logger.warning("%s %s: %s", self._name, key, error)
            except Exception:
                delay = self._back_off(key)
                logger.exception("%s %s failed; trying again in %s.", self._name, key, delay)
            self._give_back(key, delay)

    def _take(self) -> K | None:
        with self._changed:
            while not self._ready and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            key = next(iter(self._ready))
            del self._ready[key]
            self._running.add(key)
            return key

    def _give_back(self, key: K, delay: timedelta | None) -> None:
        with self._changed:
            self._running.discard(key)
            if key in self._again or delay == timedelta(0):
                self._again.discard(key)
                self._ready[key] = None
            elif delay is not None:
                self._schedule(key, delay.total_seconds())
            self._changed.notify_all()

    def _back_off(self, key: K) -> timedelta:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return timedelta(seconds=BACK_OFF[min(failures, len(BACK_OFF) - 1)])

    def _keep_time(self) -> None:
        next_safety = monotonic() + SAFETY_TICK.total_seconds()
        while True:
            with self._changed:
                if self._stopping:
                    return
                now = monotonic()
                while self._due and self._due[0][0] <= now:
                    due_at, _, key = heapq.heappop(self._due)
                    if self._due_at.get(key) != due_at:
                        continue
                    del self._due_at[key]
                    if key in self._running:
                        self._again.add(key)
                    else:
                        self._ready[key] = None
                self._changed.notify_all()
                next_due = self._due[0][0] if self._due else next_safety
                self._changed.wait(max(min(next_due, next_safety) - monotonic(), 0.001))
            if monotonic() >= next_safety:
                next_safety = monotonic() + SAFETY_TICK.total_seconds()
                self._look_at_all()

    def _look_at_all(self) -> None:
        try:
            self.wake_all()
        except Exception:
            logger.exception("%s: the safety tick failed.", self._name)


class Activities:
    """Long acts, each with a thread; at most one of a name at a time."""

    def __init__(self) -> None:
        """Make an empty set of activities."""
        self._lock = threading.Lock()
        self._running: set[tuple[str, str]] = set()
        self._outcomes: dict[tuple[str, str], object] = {}
        self._stopping = False

    def ensure(
        self, verb: str, key: str, act: Callable[[], object], on_end: Callable[[], None]
    ) -> None:
        """Start *act* unless it runs or its outcome is known; call *on_end* when it has ended."""
        name = (verb, key)
        with self._lock:
            if self._stopping or name in self._running or name in self._outcomes:
                return
            self._running.add(name)
        threading.Thread(
            target=self._run, args=(name, act, on_end), name=f"{verb} {key}", daemon=True
        ).start()

    def outcome(self, verb: str, key: str) -> object | None:
        """Return what the activity returned, or the exception it raised; None before its end."""
        with self._lock:
            return self._outcomes.get((verb, key))

    def is_running(self, verb: str, key: str) -> bool:
        """Tell whether the activity runs now."""
        with self._lock:
            return (verb, key) in self._running

    def forget(self, key: str, *verbs: str) -> None:
        """Forget the outcomes for *key* (of *verbs*, or all), so that they may be done again."""
        with self._lock:
            for name in [n for n in self._outcomes if n[1] == key and (not verbs or n[0] in verbs)]:
                del self._outcomes[name]

    def stop(self) -> None:
        """Start nothing any more; what runs is left to end with the process."""
        with self._lock:
            self._stopping = True

    def _run(
        self, name: tuple[str, str], act: Callable[[], object], on_end: Callable[[], None]
    ) -> None:
        try:
            outcome: object = act()
        except Exception as error:
            outcome = error
        with self._lock:
            self._running.discard(name)
            self._outcomes[name] = True if outcome is None else outcome
        on_end()


def pause(seconds: float) -> None:
    """Wait; for activities that must try a host again."""
    threading.Event().wait(seconds)
