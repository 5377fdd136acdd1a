"""Running `ssh` and its like: every call has an end in time, and every answer one in size.

Called by the other modules of this package.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO

from dstack_engine.errors import HostUnreachable

#: Bytes of an answer; more is a machine gone wild.
LIMIT = 4 << 20
_CHUNK = 64 << 10


@dataclass(frozen=True)
class Answer:
    """The end of a program: its exit status and what it printed."""

    status: int
    output: bytes
    errors: bytes

    @property
    def words(self) -> str:
        """Return what it wrote to stderr, as text."""
        return self.errors.decode(errors="replace").strip()


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    folder: Path | None = None,
    given: bytes = b"",
    limit: int = LIMIT,
) -> Answer:
    """Run *argv* in *folder* with *given* on its stdin, for *timeout* seconds at most.

    Raises `TimeoutError`, and `HostUnreachable` when the program is not installed or prints more
    than *limit* bytes.
    """
    deadline = monotonic() + timeout
    with tempfile.TemporaryFile() as source:
        source.write(given)
        source.seek(0)
        process = _started(argv, folder, source, subprocess.PIPE, subprocess.PIPE)
    try:
        output, errors = _gather(process, deadline, limit)
        return Answer(process.wait(max(deadline - monotonic(), 0.1)), output, errors)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{argv[0]} has not ended within {timeout:.0f} s") from error
    finally:
        _end(process)


def run_to_background(
    argv: Sequence[str], *, folder: Path, errors: IO[bytes], timeout: float
) -> int:
    """Run *argv* until it ends, whoever of its children goes on; return its exit status.

    What they write to stderr goes to the file *errors*. Raises `TimeoutError`, with all of them
    ended, and `HostUnreachable` when the program is not installed.
    """
    with Path(os.devnull).open("r+b") as nothing:
        process = _started(argv, folder, nothing, nothing, errors)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired as error:
        _end(process)
        raise TimeoutError(f"{argv[0]} has not ended within {timeout:.0f} s") from error


def _started(
    argv: Sequence[str],
    folder: Path | None,
    source: IO[bytes],
    output: IO[bytes] | int,
    errors: IO[bytes] | int,
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv,
            stdin=source,
            stdout=output,
            stderr=errors,
            cwd=folder,
            start_new_session=True,  # a terminal's Ctrl-C is not for it
        )
    except FileNotFoundError as error:
        if error.filename != argv[0]:
            raise
        raise HostUnreachable(
            f"`{argv[0]}` is not installed on this computer",
            hint="sudo apt-get install openssh-client",
        ) from error


def _gather(process: subprocess.Popen[bytes], deadline: float, limit: int) -> tuple[bytes, bytes]:
    """Read both streams to their ends."""
    assert process.stdout is not None
    assert process.stderr is not None
    read: dict[int, bytearray] = {}
    with selectors.DefaultSelector() as selector:
        for stream in (process.stdout, process.stderr):
            read[stream.fileno()] = bytearray()
            selector.register(stream.fileno(), selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(deadline - monotonic(), 0))
            if not ready:
                raise TimeoutError("it has not answered in time")
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                read[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
            if sum(map(len, read.values())) > limit:
                raise HostUnreachable(f"it answered with more than {limit >> 20} MB")
    output, errors = read.values()
    return bytes(output), bytes(errors)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Make sure that nothing of *process* runs, and let go of its pipes."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
