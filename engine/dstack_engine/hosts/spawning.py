"""How a job's command is started, and how a shell enters beside it.

Used by `hosts.supervisor`, and run by the terminal that asks the process host for a shell; a bare
interpreter can import it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal

from dstack_engine.hosts.job_folder import JobFolder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_F_SETPIPE_SZ = 1031
_PIPE_BYTES = 1 << 20
_HEARD = (signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
_LIBC = ctypes.CDLL(None, use_errno=True)


class SpawnFailed(Exception):
    """The command could not be executed; the text says why."""


def adopt_orphans() -> None:
    """Become the parent of every process of the job whose own parent ends."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def spawn(instructions: Mapping[str, object]) -> tuple[int, int, int]:
    """Start the command as the leader of its own session and process group.

    Returns its process id and the reading ends of its standard output and error, which do not
    block. It dies with this process. Raises `SpawnFailed`.
    """
    out, into_out = os.pipe()
    err, into_err = os.pipe()
    failed, into_failed = os.pipe()
    supervisor = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            _become(instructions, supervisor, into_out, into_err)
        except BaseException as error:
            os.write(into_failed, str(error).encode()[:1000] or b"unknown")
        finally:
            os._exit(127)
    for fd in (into_out, into_err, into_failed):
        os.close(fd)
    failure = os.read(failed, 1000).decode()
    os.close(failed)
    if failure:
        os.waitpid(child, 0)
        raise SpawnFailed(failure)
    for fd in (out, err):
        os.set_blocking(fd, False)
        _widen(fd)
    return child, out, err


def signal_pipe() -> int:
    """Return the end of a pipe into which every signal of interest puts its number."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    for one in _HEARD:
        signal.signal(one, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    return read


def reap() -> list[tuple[int, int]]:
    """Collect this process's dead children; return (pid, wait status) of each."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, status))


def enter(path: str) -> None:
    """Become an interactive shell in the environment and folder of the running job *path*.

    The shell is ended with the job. Its environment is read here, so that it is in no argument.
    """
    instructions = JobFolder(path).read("instructions") or {}
    argv, environment = instructions.get("argv"), instructions.get("environment")
    if not isinstance(argv, list) or not isinstance(environment, dict):
        raise SystemExit("the run has ended")
    os.chdir(str(instructions["cwd"]))
    terminal = {"TERM": os.environ.get("TERM", "dumb")}
    os.execve(argv[0], [argv[0], "-i"], {**terminal, **environment})


def _become(instructions: Mapping[str, object], supervisor: int, out: int, err: int) -> None:
    """Turn the forked child into the job's command."""
    os.setsid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:
        os._exit(127)  # it died before the kernel knew the wish
    signal.set_wakeup_fd(-1)
    for one in (*_HEARD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP):
        signal.signal(one, signal.SIG_DFL)
    cpus, argv, environment = (instructions[k] for k in ("cpus", "argv", "environment"))
    assert isinstance(cpus, list)
    assert isinstance(argv, list)
    assert isinstance(environment, dict)
    if cpus:
        os.sched_setaffinity(0, cpus)
    _be_first_to_go()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(str(instructions["cwd"]))
    os.umask(0o022)
    os.execve(argv[0], argv, environment)


def _be_first_to_go() -> None:
    """Let a computer that is out of memory kill the job rather than the notebook or the engine."""
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:  # noqa: PTH123
            file.write(b"300")
    except OSError:
        return


def _widen(fd: int) -> None:
    """Let a pipe hold more, so that a fast printer seldom waits."""
    try:
        fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        return
