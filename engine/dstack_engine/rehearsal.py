"""The engine with a bad day arranged: it kills itself at a step of its loops, or its clock jumps.

`python -m dstack_engine.rehearsal --home HOME --kill-at 7` is the real engine of that home in
everything else. Shipped beside `testing`, for the tests of crashes: those of the loops here, and
those of whoever writes a backend or a host and wants to see it survive.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path

from dstack_engine.home import Home
from dstack_engine.reconcilers.loop import utc_now
from dstack_engine.serving import serve


class Steps:
    """A checkpoint that writes every step down, a line each, and kills the process at the n-th."""

    def __init__(self, written_to: Path | None = None, *, kill_at: int = 0) -> None:
        """Count from 1; *kill_at* 0 is never."""
        self._kill_at = kill_at
        self._count = 0
        self._lock = threading.Lock()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = None if written_to is None else os.open(written_to, flags, 0o600)

    def __call__(self, step: str) -> None:
        """Note *step*; do not return from the last one."""
        with self._lock:
            self._count += 1
            if self._file is not None:
                os.write(self._file, f"{step}\n".encode())
            if self._count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


class MovableClock:
    """The computer's clock, set wrong by as many seconds as stand in a file."""

    def __init__(self, path: Path) -> None:
        """Read *path* at every look at the clock; a missing file is 0."""
        self._path = path

    def __call__(self) -> datetime:
        """Return the time, UTC."""
        try:
            wrong_by = float(self._path.read_text() or "0")
        except FileNotFoundError:
            wrong_by = 0.0
        return utc_now() + timedelta(seconds=wrong_by)


def rehearse(
    home: Home, *, kill_at: int = 0, steps: Path | None = None, clock: Path | None = None
) -> int:
    """Be the engine of *home* until stopped or killed; see `serve`."""
    os.chdir(home.make().root)
    return serve(
        home,
        checkpoint=Steps(steps, kill_at=kill_at),
        clock=utc_now if clock is None else MovableClock(clock),
    )


def main(arguments: list[str] | None = None) -> int:
    """Do what *arguments* say; return the exit status."""
    parser = argparse.ArgumentParser(prog="dstack_engine.rehearsal", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the engine's home")
    parser.add_argument("--kill-at", type=int, default=0, help="the step not to survive, from 1")
    parser.add_argument("--steps", type=Path, help="file to which every step is written")
    parser.add_argument("--clock", type=Path, help="file with the seconds by which it is wrong")
    given = parser.parse_args(arguments)
    home = Home(given.home.absolute())
    return rehearse(home, kill_at=given.kill_at, steps=given.steps, clock=given.clock)


if __name__ == "__main__":
    sys.exit(main())
