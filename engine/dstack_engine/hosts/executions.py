"""A command run beside a job's own, its output handed on as it comes. Used by the process host."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from dstack_engine.errors import NotFound
from dstack_engine.records.events import Stream

_READ_BYTES = 64 << 10
#: After the command's end, what it left running may still print for so long without a pause.
_LINGER_MS = 100


def run_command(
    command: Sequence[str],
    environment: Mapping[str, str],
    cwd: str,
    sink: Callable[[Stream, bytes], None],
) -> int:
    """Run *command* to its end; return its exit code, 128 + N when signal N ended it.

    When *sink* raises, the command and its process group are killed. Raises `NotFound` for a
    program that does not exist.
    """
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd=cwd,
            start_new_session=True,
            umask=0o022,  # the engine's own is stricter
        )
    except (OSError, ValueError) as error:
        raise NotFound(f"{command[0] if command else 'nothing'} cannot be run: {error}") from error
    with process:
        try:
            _hand_on(process, sink)
            code = process.wait()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return code if code >= 0 else 128 - code


def _hand_on(process: subprocess.Popen[bytes], sink: Callable[[Stream, bytes], None]) -> None:
    """Pass output on until both pipes are closed, or the command has ended and nothing comes."""
    assert process.stdout is not None
    assert process.stderr is not None
    streams = {process.stdout.fileno(): Stream.STDOUT, process.stderr.fileno(): Stream.STDERR}
    poll = select.poll()
    for fd in streams:
        poll.register(fd, select.POLLIN)
    end = os.pidfd_open(process.pid)
    poll.register(end, select.POLLIN)
    ended = False
    try:
        while streams:
            ready = poll.poll(_LINGER_MS if ended else None)
            if not ready:
                return
            for fd, _ in ready:
                if fd == end:
                    ended = True
                    poll.unregister(end)
                elif data := os.read(fd, _READ_BYTES):
                    sink(streams[fd], data)
                else:
                    poll.unregister(fd)
                    del streams[fd]
    finally:
        os.close(end)
