"""A job's supervisor: a small detached process that outlives the engine, one for each job.

The process host starts it as ``python -I -S -c BOOTSTRAP ENGINE-FOLDER JOB-FOLDER``. It reads its
instructions from the job's folder (never from its arguments), runs the job's command, writes all
output to the job's log, enforces the limits, forwards ports, and at the end leaves nothing of the
job running and writes down how it ended.

It imports little of the standard library, so that a command runs some 20 ms after it was asked.
To the engine it says one line on its standard output (`started`, `busy`, `port-taken 8080`, …), and
later sends datagrams ``b"started NAME"``, ``b"output NAME"``, ``b"exit NAME"`` to the engine's wake
socket; whether anybody listens is all the same to it.

Durations are measured by CLOCK_MONOTONIC: a clock that is set neither shortens nor lengthens them,
and the time a computer sleeps does not count, since the job does not run in it either.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

from dstack_engine.hosts import descendants, spawning
from dstack_engine.hosts.job_folder import JobFolder, number
from dstack_engine.hosts.logs import STDERR, STDOUT, LogWriter
from dstack_engine.hosts.wake import WakeSender

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dstack_engine.hosts.forwards import Forwards

_READ_BYTES = 256 << 10
#: Output that comes often and in little pieces is gathered for so long before it is read.
_GATHER_MS = 3
_LITTLE_BYTES = 64 << 10
_MEMORY_SECONDS = 0.1
_LIMIT_GRACE_SECONDS = 10.0
_DISK_RETRY_SECONDS = 0.25
_DRAIN_SECONDS = 5.0


def main(path: str) -> None:
    """Supervise the job in the folder *path* until it has ended. Never returns."""
    if os.fork():
        os._exit(0)
    os.setsid()
    code = 1
    try:
        supervise(JobFolder(path))
        code = 0
    except BaseException as error:
        _reply(f"failed {error}")  # goes nowhere once the job runs
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def supervise(folder: JobFolder) -> None:
    """Run the job once, if nobody does or did."""
    lock = folder.lock()
    if lock is None:
        return _reply("busy")
    if folder.read("state") is not None or folder.read("exit") is not None:
        return _reply("ended")
    instructions = folder.read("instructions")
    if not instructions:
        return _reply("gone")
    listeners = _open_routes(instructions["routes"])
    if isinstance(listeners, int):
        return _reply(f"port-taken {listeners}")
    Supervision(folder, instructions).run(listeners)
    return None


def _reply(line: str) -> None:
    """Tell the engine, and let go of its pipe."""
    try:
        os.write(1, line.encode() + b"\n")
    except BrokenPipeError:
        line = ""  # the engine died meanwhile; the next one finds the job by its folder
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(nothing, fd)
    os.close(nothing)


def _open_routes(routes: object) -> list[tuple[object, int]] | int:
    """Return the listeners with the port behind each, or the number of a port that is taken."""
    if not routes:
        return []
    # Kept out of the way of the many jobs without ports: `socket` and `selectors` take 10 ms.
    from dstack_engine.hosts import forwards  # noqa: PLC0415

    assert isinstance(routes, list)
    listeners: list[tuple[object, int]] = []
    try:
        for address, local_port, container_port in routes:
            forwards.check_free(container_port)
            if local_port != container_port:
                listeners.append((forwards.listen(address, local_port), container_port))
    except forwards.PortInUse as error:
        return error.port
    return listeners


def _start_forwards(listeners: list[tuple[object, int]]) -> Forwards:
    from dstack_engine.hosts import forwards  # noqa: PLC0415

    return forwards.Forwards(listeners)  # type: ignore[arg-type]  # sockets, see above


class Supervision:
    """One job's life: spawn, copy output, hold the limits, end everything, tell how it ended."""

    def __init__(self, folder: JobFolder, instructions: dict[str, object]) -> None:
        self._folder = folder
        self._wake = WakeSender(str(instructions["wake"]), folder.name)
        self._log = LogWriter(str(instructions["log"]), number(instructions, "log_cap"))
        self._instructions = instructions
        self._memory_limit = number(instructions, "memory_bytes")
        self._max_seconds = instructions["max_seconds"]
        self._child = 0
        self._status: int | None = None  # of the job's main process, once it has ended
        self._pipes: dict[int, int] = {}  # file descriptor -> stream
        self._unwritten: list[tuple[int, int, bytes]] = []
        self._disk_full_until = 0.0
        self._kill_at: float | None = None
        self._expires_at: float | None = None
        self._next_memory_look = 0.0
        self._asked_to_stop = False
        self._timed_out = self._out_of_memory = self._interrupted = False
        self._kernel_oom_kills = 0
        self._error: str | None = None
        self._started_ns = 0
        self._poll = select.poll()
        self._signals = spawning.signal_pipe()

    def run(self, listeners: list[tuple[object, int]]) -> None:
        """Spawn the job's command and stay until nothing of it is left."""
        spawning.adopt_orphans()
        self._folder.reserve_exit()
        me = descendants.look(os.getpid())
        assert me is not None
        self._started_ns = time.time_ns()
        facts: dict[str, object] = {
            "pid": me.pid,
            "start_ticks": me.start_ticks,
            "boot": descendants.boot_id(),
            "started_ns": self._started_ns,
        }
        self._folder.write("state", facts)
        self._kernel_oom_kills = _kernel_oom_kills()
        try:
            self._spawn()
        except (spawning.SpawnFailed, OSError) as error:
            self._folder.discard("state")
            return _reply(f"failed {error}")
        _reply("started")
        self._wake.send(b"started")
        if listeners:
            _start_forwards(listeners)
        self._attend()
        self._end()
        return None

    def _spawn(self) -> None:
        self._child, out, err = spawning.spawn(self._instructions)
        for fd, stream in ((out, STDOUT), (err, STDERR)):
            self._pipes[fd] = stream
            self._poll.register(fd, select.POLLIN)
        self._poll.register(self._signals, select.POLLIN)
        if isinstance(self._max_seconds, float):
            self._expires_at = time.monotonic() + self._max_seconds

    def _attend(self) -> None:
        """Copy output and hold the limits until the job has ended."""
        alone = select.poll()  # waits for a signal but lets output gather
        alone.register(self._signals, select.POLLIN)
        last_output = 0.0
        while not self._over():
            ready = self._poll.poll(self._patience())
            now = time.monotonic()
            got = self._copy([fd for fd, _ in ready if fd != self._signals], now)
            if any(fd == self._signals for fd, _ in ready):
                self._hear(now)
            self._hold_limits(now)
            if got:
                if got < _LITTLE_BYTES and now - last_output < 0.02:
                    alone.poll(_GATHER_MS)
                last_output = now

    def _over(self) -> bool:
        """Tell whether the job is at its end: what is left of it now is killed.

        A job that was asked to stop has ended when its whole process group has: a program under
        the shell may still be saving its work when the shell is gone.
        """
        if self._status is None:
            return False
        return self._kill_at is None or not _group_lives(self._child)

    def _patience(self) -> int:
        """Return how many ms nothing needs to be done."""
        now = time.monotonic()
        moments = [now + 60.0]
        moments += [at for at in (self._kill_at, self._expires_at, self._wake.due) if at]
        if self._memory_limit:
            moments.append(self._next_memory_look)
        if self._unwritten:
            moments.append(self._disk_full_until)
        if self._status is not None:
            moments.append(now + 0.02)
        return max(int((min(moments) - now) * 1000) + 1, 0)

    def _copy(self, ready: list[int], now: float) -> int:
        """Move what the pipes hold to the log; return how much was new.

        While the disk is full nothing is read, so the job waits.
        """
        if self._unwritten:
            if now >= self._disk_full_until:
                self._write(now)
        else:
            time_ns = time.time_ns()
            for fd in ready:
                stream, data = self._pipes[fd], _take(fd)
                if data:
                    self._unwritten.append((stream, time_ns, data))
                elif data is not None:
                    self._poll.unregister(fd)
                    os.close(fd)
                    del self._pipes[fd]
            if self._unwritten:
                got = sum(len(data) for _, _, data in self._unwritten)
                self._write(now)
                return got
        self._wake.flush(now)
        return 0

    def _write(self, now: float) -> None:
        try:
            self._log.append_many(self._unwritten)
        except OSError:
            if not self._disk_full_until:
                for fd in self._pipes:
                    self._poll.unregister(fd)
            self._disk_full_until = now + _DISK_RETRY_SECONDS
            return
        self._unwritten = []
        if self._disk_full_until:
            self._disk_full_until = 0.0
            for fd in self._pipes:
                self._poll.register(fd, select.POLLIN)
        self._wake.output(now)

    def _hear(self, now: float) -> None:
        """Answer the signals that came: a process ended, a wish to stop, a shutdown."""
        numbers = set(os.read(self._signals, 4096))
        self._collect()
        if signal.SIGUSR1 in numbers:
            self._asked_to_stop = True
            wish = self._folder.read("stop") or {}
            grace = wish.get("grace")
            self._ask(
                signal.SIGTERM, now + (grace if isinstance(grace, float) else _LIMIT_GRACE_SECONDS)
            )
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._interrupted = not self._asked_to_stop
            self._ask(signal.SIGTERM, now + _DRAIN_SECONDS)

    def _collect(self) -> None:
        for pid, status in spawning.reap():
            if pid == self._child:
                self._status = status
                if self._timed_out:
                    # What a shell has started in the background does not hear SIGINT.
                    self._signal_group(signal.SIGTERM)

    def _ask(self, number: int, kill_at: float) -> None:
        """Signal the job's process group, and set when it is killed (the earliest wish counts)."""
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)
        if kill_at <= time.monotonic():
            return  # no time to answer: it is killed without being asked
        self._signal_group(number)
        self._signal_group(signal.SIGCONT)

    def _signal_group(self, number: int) -> None:
        try:
            os.killpg(self._child, number)
        except (ProcessLookupError, PermissionError):
            return

    def _hold_limits(self, now: float) -> None:
        if self._expires_at is not None and now >= self._expires_at:
            self._expires_at = None
            self._timed_out = self._kill_at is None
            self._ask(signal.SIGINT, now + _LIMIT_GRACE_SECONDS)
        if self._memory_limit and now >= self._next_memory_look:
            if self._too_much_memory():
                self._out_of_memory = True
                self._kill()
            # Looking takes longer with more processes; it never takes more than a tenth.
            cost = time.monotonic() - now
            self._next_memory_look = now + max(_MEMORY_SECONDS, 10 * cost)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill()

    def _too_much_memory(self) -> bool:
        processes = descendants.descendants(os.getpid())
        if descendants.resident_bytes(processes) <= self._memory_limit:
            return False
        return descendants.proportional_bytes(processes) > self._memory_limit

    def _kill(self) -> None:
        """Kill every process of the job, wherever it has hidden."""
        me, path = os.getpid(), self._folder.path

        def remaining() -> set[int]:
            below = {process.pid for process in descendants.descendants(me) if process.alive}
            return below | set(descendants.marked(path))

        descendants.kill_all(remaining, self._collect)

    def _end(self) -> None:
        """Leave nothing running, keep the last output, tell how it ended."""
        self._kill()
        self._drain()
        self._folder.write_exit(self._exit_facts())
        self._folder.discard("instructions")
        self._wake.send(b"exit")

    def _drain(self) -> None:
        """Keep what the pipes still hold; nobody can write to them any more."""
        until = time.monotonic() + _DRAIN_SECONDS
        while (self._pipes or self._unwritten) and (now := time.monotonic()) < until:
            ready = [fd for fd, _ in self._poll.poll(50) if fd != self._signals]
            self._copy(ready, now)
        if self._unwritten:
            self._error = "the disk is full: the end of the output was not kept"

    def _exit_facts(self) -> dict[str, object]:
        status = self._status or 0
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        oom_killed = number == signal.SIGKILL and self._kill_at is None
        if oom_killed and _kernel_oom_kills() > self._kernel_oom_kills:
            self._out_of_memory = True
        return {
            "exit_code": os.waitstatus_to_exitcode(status) if number is None else 128 + number,
            "signal": None if self._out_of_memory else number,
            "out_of_memory": self._out_of_memory,
            "timed_out": self._timed_out,
            "interrupted": self._interrupted,
            "error": self._error,
            "started_ns": self._started_ns,
            "finished_ns": time.time_ns(),
        }


def _take(fd: int) -> bytes | None:
    """Return what a pipe holds now: bytes, ``b""`` at its end, None when there is nothing."""
    try:
        return os.read(fd, _READ_BYTES)
    except BlockingIOError:
        return None


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _kernel_oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory since boot."""
    try:
        with open("/proc/vmstat", "rb", buffering=0) as file:  # noqa: PTH123
            for line in (file.read() or b"").splitlines():
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0
