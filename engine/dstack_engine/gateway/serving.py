"""The gateway's process: the lock, the port, and the workers that do the work.

`python -m dstack_engine.gateway` calls `serve`. The first process loads everything, claims the port
and forks its workers; then it only watches them. A worker that dies is forked again within
milliseconds, with the socket of the dead: connections that came meanwhile have waited in it. When
the first process itself dies, its workers let the port go and finish what they are answering, and
the engine's `link` starts another gateway.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import logging.handlers
import os
import resource
import select
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from time import monotonic

from dstack_engine import __version__
from dstack_engine.gateway.address import (
    GatewayAddress,
    is_home_there,
    read_address,
    take_lock,
    write_address,
)
from dstack_engine.gateway.listening import claim
from dstack_engine.gateway.pulses import Pulses
from dstack_engine.gateway.worker import DRAIN_LIMIT, HANDOVER_LIMIT, Post, work
from dstack_engine.home import Home

logger = logging.getLogger(__name__)

#: Seconds after which a gateway ends that has no services and hears no engine.
IDLE_LIMIT = 60.0
#: The log is cut at this size (bytes), and one older one is kept.
LOG_SIZE = 5 << 20
#: How often the first process looks after things, in seconds.
TICK = 1.0
#: A worker that lived so long (s) is started again at once; one that died sooner waits, at first
#: and at most so long, twice as long each time.
LIVED_LONG = 10.0
FIRST_REST = 0.05
LONGEST_REST = 5.0
#: A worker whose event loop has not turned for so long (s) hangs for good, and is replaced.
HANGS_AFTER = 30.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def serve(home: Home, *, port: int, processes: int = 1, idle_limit: float = IDLE_LIMIT) -> int:
    """Be the home's gateway until stopped; return the exit status (0 also if one lives already).

    Raises `PortTaken`.
    """
    os.umask(0o077)
    home.make()
    lock = take_lock(home)
    if lock is None:
        return 0
    _log_to(home.gateway / "gateway.log")
    _raise_file_limit()
    before = read_address(home)
    same = before is not None and before.asked == port
    listeners = claim(port, before=before.port if before and same else None, workers=processes)
    address = GatewayAddress(
        listeners[0].getsockname()[1], os.getpid(), __version__, port, processes
    )
    logger.info("The gateway %s listens on 127.0.0.1:%d.", __version__, address.port)
    gc.collect()
    gc.freeze()  # modules stay: no collector need look at them, and forks share their memory
    crew = _Crew(home, address, lock, listeners, idle_limit)
    write_address(home, address)
    try:
        crew.work()
    finally:
        logger.info("The gateway has ended.")
    return 0


@dataclass
class _Crew:
    """The workers, and how those are replaced that die."""

    home: Home
    address: GatewayAddress
    lock: FileIO
    listeners: Sequence[socket.socket]
    idle_limit: float
    #: Workers by pid: their number and since when they live.
    alive: dict[int, tuple[int, float]] = field(default_factory=dict)
    #: When those are to be started that are not alive, and how long they rested last.
    due: dict[int, float] = field(default_factory=dict)
    rests: dict[int, float] = field(default_factory=dict)
    #: What the workers are told: SIGTERM, or SIGHUP when another gateway takes over.
    ending: signal.Signals | None = None
    bell: _Bell = field(default_factory=lambda: _Bell())
    #: When this process last looked around.
    looked: float = field(default_factory=monotonic)

    def work(self) -> None:
        """Keep the workers alive until one ends by itself or a signal comes; then end all."""
        # Whoever holds the reading end sees it closed when this process is gone.
        self.lifeline, self.held = os.pipe()
        self.pulses = Pulses(self.address.processes)
        self.due = dict.fromkeys(range(self.address.processes), 0.0)
        self.bell.listen(self._stop)
        while self.ending is None:
            self._start_due()
            self._wait()
            self._reap()
            self._look_around()
        self._end(self.ending)

    def _stop(self, word: signal.Signals) -> None:
        self.ending = signal.SIGHUP if word is signal.SIGHUP else signal.SIGTERM

    def _start_due(self) -> None:
        for number in [n for n, at in self.due.items() if at <= monotonic()]:
            del self.due[number]
            self._fork(number)

    def _fork(self, number: int) -> None:
        # A worker that has no ears yet keeps what it is told until it has.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self.pulses.beat(number)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self.alive[pid] = (number, monotonic())
            return
        status = 1
        try:
            status = work(self._become_worker(number))
        except BaseException:
            logger.exception("worker %d could not go on", number)
        finally:
            os._exit(status)

    def _become_worker(self, number: int) -> Post:
        """Let go of what is the first process's alone; return the worker's post."""
        self.bell.forget()
        os.close(self.held)
        self.lock.close()
        for other, listener in enumerate(self.listeners):
            if other != number:
                listener.close()
        listener = self.listeners[number]
        return Post(
            self.home,
            self.address,
            number,
            listener,
            self.lifeline,
            self.idle_limit,
            beat=lambda: self.pulses.beat(number),
        )

    def _wait(self) -> None:
        next_due = min(self.due.values(), default=monotonic() + TICK)
        self.bell.wait(max(0.0, min(TICK, next_due - monotonic())))

    def _reap(self) -> None:
        for pid, status in _ended(list(self.alive)):
            number, since = self.alive.pop(pid)
            if status == 0:
                self.ending = signal.SIGTERM
            elif self.ending is None:
                rest = self._rest(number, monotonic() - since)
                logger.error("worker %d ended (%s): another in %.2f s", number, status, rest)
                self.due[number] = monotonic() + rest

    def _rest(self, number: int, lived: float) -> float:
        rest = 0.0
        if lived < LIVED_LONG:
            before = self.rests.get(number)
            # The first death is no loop yet.
            rest = 0.0 if before is None else min(max(before * 2, FIRST_REST), LONGEST_REST)
        self.rests[number] = rest
        return rest

    def _look_around(self) -> None:
        self._end_what_hangs()
        if not is_home_there(self.home, self.lock):
            logger.info("The home is gone: the gateway ends.")
            self.ending = signal.SIGTERM
        log = self.home.gateway / "gateway.log"
        with contextlib.suppress(OSError):
            if log.stat().st_size > LOG_SIZE:
                log.replace(log.with_suffix(".log.1"))

    def _end_what_hangs(self) -> None:
        looked, self.looked = self.looked, monotonic()
        if self.looked - looked > TICK + HANGS_AFTER / 2:
            self.pulses.forgive()  # this process was stopped itself, and so were its workers
        for pid, (number, _) in self.alive.items():
            if self.pulses.age(number) > HANGS_AFTER:
                logger.error("worker %d has done nothing for %.0f s", number, HANGS_AFTER)
                self.pulses.beat(number)
                os.kill(pid, signal.SIGKILL)

    def _end(self, word: signal.Signals) -> None:
        """Give the port and the lock to whoever comes, and let the workers finish."""
        for listener in self.listeners:
            listener.close()
        self.lock.close()
        for pid in self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, word)
        limit = HANDOVER_LIMIT if word is signal.SIGHUP else DRAIN_LIMIT
        until = monotonic() + limit + 5
        while self.alive and monotonic() < until:
            self._wait()
            for pid, _ in _ended(list(self.alive)):
                del self.alive[pid]
        for pid in self.alive:
            os.kill(pid, signal.SIGKILL)


def _ended(pids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the processes among *pids* that have ended, with their exit status."""
    for pid in pids:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            yield pid, os.waitstatus_to_exitcode(status)


class _Bell:
    """Ends a wait when a signal comes."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}

    def listen(self, on_stop: Callable[[signal.Signals], None]) -> None:
        """Call *on_stop* with each signal that asks for the end."""
        for number in _SIGNALS:
            if number is signal.SIGCHLD:
                signal.signal(number, lambda *_: None)
            else:
                signal.signal(number, lambda number, _: on_stop(signal.Signals(number)))
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def wait(self, seconds: float) -> None:
        """Wait for a signal, *seconds* at most."""
        if select.select([self._reader], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 4096)

    def forget(self) -> None:
        """Be as if it had never been; for the workers and the end."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)


class _Log(logging.handlers.WatchedFileHandler):
    """The log; where its folder is gone nothing is written, and nobody stumbles over that."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            super().emit(record)


def _log_to(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_APPEND, 0o600))
    # The first process moves the file away when it is long; all then begin the next one.
    handler = _Log(path)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _raise_file_limit() -> None:
    """Allow as many connections as the computer does: each of them is an open file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
