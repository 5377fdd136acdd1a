"""The folder of a process-host job: where its parts lie, and the small files that tell its state.

Shared by the process host and the job's supervisor, which a bare interpreter runs. Each state
file is written whole and renamed, so it is either absent or true:

``instructions``  what the supervisor needs, environment included (0600); gone when it has ended
``labels``        the facts by which `list_containers` finds the job
``lock``          held by the one supervisor for as long as it lives
``state``         which process supervises: from here on the job counts as started, once
``stop``          the wish to stop, as seconds of grace; SIGUSR1 to the supervisor points to it
``exit``          how it ended
"""

from __future__ import annotations

import fcntl
import marshal
import os
import select

from dstack_engine.hosts import descendants

#: Room kept for the exit file from the start, so that the end can be told on a full disk.
EXIT_BYTES = 4096


class JobFolder:
    """The places in one job's folder."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.name = os.path.basename(self.path)  # noqa: PTH119 - pathlib is slow
        self.workflow = f"{self.path}/workflow"
        self.python = f"{self.path}/python"
        self.script = f"{self.path}/script"
        self.supervisor_errors = f"{self.path}/supervisor.err"

    def exists(self) -> bool:
        """Tell whether there is such a job."""
        return os.path.isdir(self.path)  # noqa: PTH112 - pathlib is slow

    def read(self, name: str) -> dict[str, object] | None:
        """Return the facts in the state file *name*; None when it is absent."""
        try:
            with open(f"{self.path}/{name}", "rb") as file:  # noqa: PTH123
                facts = marshal.loads(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (EOFError, ValueError, TypeError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def write(self, name: str, facts: dict[str, object]) -> None:
        """Write a state file, readable by its user alone, in one step."""
        temporary = f"{self.path}/.{name}.{os.getpid()}"
        write_private(temporary, marshal.dumps(facts))
        os.replace(temporary, f"{self.path}/{name}")  # noqa: PTH105 - pathlib is slow

    def reserve_exit(self) -> None:
        """Take the disk space of the exit file now."""
        write_private(f"{self.path}/.exit", b"\\0" * EXIT_BYTES)

    def write_exit(self, facts: dict[str, object]) -> None:
        """Tell how the job ended, in the space that was reserved where it was."""
        fd = os.open(f"{self.path}/.exit", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, marshal.dumps(facts), 0)
        finally:
            os.close(fd)
        os.replace(f"{self.path}/.exit", f"{self.path}/exit")  # noqa: PTH105

    def discard(self, name: str) -> None:
        """Delete a state file; nothing happens when it is absent."""
        try:
            os.unlink(f"{self.path}/{name}")  # noqa: PTH108
        except FileNotFoundError:
            return

    def lock(self) -> int | None:
        """Take the job's lock; return its file descriptor, or None when somebody has it."""
        fd = os.open(f"{self.path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def supervisor(self) -> int | None:
        """Return the process id of the living supervisor that `state` names; else None.

        The id alone says little, since ids are used again: its start time and the machine's boot
        must be the same.
        """
        state = self.read("state")
        if not state or state.get("boot") != descendants.boot_id():
            return None
        process = descendants.look(number(state, "pid"))
        alive = process is not None and process.alive
        if process is None or not alive or process.start_ticks != number(state, "start_ticks"):
            return None
        return process.pid

    def wait_for_end(self, pid: int, seconds: float | None = None) -> bool:
        """Block until the supervisor *pid* has ended; tell whether it has within *seconds*."""
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            if self.supervisor() != pid:  # the id was used again before we took hold of it
                return True
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return bool(poll.poll(None if seconds is None else seconds * 1000))
        finally:
            os.close(fd)

    def wait_for_lock(self, seconds: float = 5.0) -> int | None:
        """Take the lock from a supervisor that is on its way out; None when it does not let go."""
        pause = select.poll()
        for _ in range(int(seconds * 100)):
            try:
                lock = self.lock()
            except OSError:
                return None  # the folder is gone
            if lock is not None:
                return lock
            pause.poll(10)
        return None


def number(facts: dict[str, object], key: str) -> int:
    """Return a whole number out of *facts*; 0 where there is none."""
    value = facts.get(key)
    return value if isinstance(value, int) else 0


def write_private(path: str, content: bytes) -> None:
    """Write a file that its user alone can read."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
