"""Processes and their descendants, as Linux's `/proc` tells: who they are, what they use.

Used by a job's supervisor, to end everything a job has left behind and to hold its memory limit,
and by the process host, to recognise a supervisor and to sample usage. A bare interpreter can
import it.
"""

from __future__ import annotations

import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

#: Carried by every process of a job; its value is the job's folder. It finds those that have got
#: away from a supervisor that was killed.
JOB_VARIABLE = "DSTACK_JUPYTER_JOB"


class Process:
    """What `/proc/PID/stat` says of a process now; times in clock ticks."""

    __slots__ = ("cpu_ticks", "parent", "pid", "reaped_ticks", "start_ticks", "state")

    def __init__(self, pid: int, stat: bytes) -> None:
        # The command's name may hold spaces and parentheses: fields are counted after the last.
        fields = stat[stat.rindex(b")") + 2 :].split()
        self.pid = pid
        self.state = fields[0].decode()
        self.parent = int(fields[1])
        self.cpu_ticks = int(fields[11]) + int(fields[12])
        #: CPU time of children that have ended and were waited for.
        self.reaped_ticks = int(fields[13]) + int(fields[14])
        self.start_ticks = int(fields[19])

    @property
    def alive(self) -> bool:
        """Tell whether it still runs: a zombie does not."""
        return self.state not in ("Z", "X")


def look(pid: int) -> Process | None:
    """Return the process *pid*, or None when there is none."""
    stat = _read(f"/proc/{pid}/stat")
    return Process(pid, stat) if stat else None


def all_processes() -> list[Process]:
    """Return every process of this computer that can be seen."""
    found = (look(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    return [process for process in found if process is not None]


def descendants(root: int) -> list[Process]:
    """Return the living and dead processes below *root*, without itself."""
    children: dict[int, list[Process]] = {}
    for process in all_processes():
        children.setdefault(process.parent, []).append(process)
    found, waiting = [], [root]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            found.append(child)
            waiting.append(child.pid)
    return found


def marked(job_folder: str) -> list[int]:
    """Return the processes that carry the mark of this job, and everything below them."""
    mark = f"{JOB_VARIABLE}={job_folder}".encode()
    found = {
        process.pid
        for process in all_processes()
        if process.alive and mark in _read(f"/proc/{process.pid}/environ").split(b"\0")
    }
    for pid in list(found):
        found.update(process.pid for process in descendants(pid) if process.alive)
    found.discard(os.getpid())
    return sorted(found)


def resident_bytes(processes: list[Process]) -> int:
    """Return the memory that the processes hold, pages they share counted for each."""
    total = 0
    for process in processes:
        fields = _read(f"/proc/{process.pid}/statm").split()
        total += int(fields[1]) * PAGE_BYTES if fields else 0
    return total


def proportional_bytes(processes: list[Process]) -> int:
    """Return the memory that the processes hold, shared pages divided among them.

    Exact and slow (it walks the page tables); where the kernel does not tell, the resident size.
    """
    total = 0
    for process in processes:
        for line in _read(f"/proc/{process.pid}/smaps_rollup").splitlines():
            if line.startswith(b"Pss:"):
                total += int(line.split()[1]) * 1024
                break
        else:
            total += resident_bytes([process])
    return total


def send(pid: int, number: int) -> None:
    """Send a signal to one process; nothing happens when it is gone."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def kill_all(
    list_pids: Callable[[], Iterable[int]], reap: Callable[[], object] = lambda: None
) -> None:
    """Kill what *list_pids* returns until it returns nothing more; *reap* collects the dead.

    Everything is stopped before it is killed, so that nothing forks faster than it is found.
    Gives up after about ten seconds, which only a process stuck in the kernel survives.
    """
    pause = select.poll()
    for _ in range(1000):
        stopped: set[int] = set()
        for _ in range(50):
            new = set(list_pids()) - stopped
            if not new:
                break
            for pid in new:
                send(pid, signal.SIGSTOP)
            stopped |= new
        if not stopped:
            return
        for pid in stopped:
            send(pid, signal.SIGKILL)
        reap()
        pause.poll(10 if set(list_pids()) else 0)


def boot_id() -> str:
    """Return what names this boot of the machine: process ids mean nothing across boots."""
    return _read("/proc/sys/kernel/random/boot_id").decode().strip()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - pathlib is slow
            return file.read() or b""
    except OSError:
        return b""
