"""How the engine is found, and started where none runs: exactly one per home.

Called by whatever needs the engine first: the magic, the terminal command, Jupyter's server
extension. Starters take turns by a lock on a file, so twenty of them start one engine; the engine
itself holds another lock for as long as it lives, so a leftover `engine.json` deceives nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

from dstack_engine import detached
from dstack_engine.address import find_engine, no_engine
from dstack_engine.client import Client
from dstack_engine.errors import EngineStartFailed
from dstack_engine.home import Home

#: How long a started engine may take until it answers; seconds.
START_TIMEOUT = 30.0

#: After so many seconds without an answer the user is told what is being waited for.
PATIENCE = 1.0


def connect(
    home: Home | None = None,
    *,
    start: bool = True,
    on_wait: Callable[[str], None] | None = None,
) -> Client:
    """Return a client of the home's engine, started first where none runs.

    *on_wait* is called with a sentence when that takes longer than a second. Raises `EngineDown`
    (none runs and *start* is false), `EngineStartFailed`, `EngineVersionMismatch`.
    """
    home = home or Home.of_user()
    if find_engine(home) is None:
        if not start:
            raise no_engine()
        _start(home, on_wait)
    client = Client(home)
    client.shake_hands()
    return client


def _start(home: Home, on_wait: Callable[[str], None] | None) -> None:
    try:
        home.make()
    except OSError as error:
        raise EngineStartFailed(
            f"The engine's home {home.root} cannot be made: {error.strerror}.",
            hint="Set DSTACK_JUPYTER_HOME to a folder that you may write to, on a disk with room.",
        ) from error
    with _turn(home.root / "start.lock"):
        if find_engine(home) is None:
            arguments = ("serve", "--home", str(home.root))
            process = detached.start("dstack_engine", *arguments, output=home.engine_log)
            _await_engine(home, process, on_wait)


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _await_engine(
    home: Home, process: subprocess.Popen[bytes], on_wait: Callable[[str], None] | None
) -> None:
    begun = monotonic()
    told = False
    tick = threading.Event()
    while monotonic() - begun < START_TIMEOUT:
        address = find_engine(home)
        if address is not None and address.pid == process.pid:
            detached.reap_later(process)
            return
        if process.poll() == 0 and address is not None:
            return  # another engine was first; ours has seen its lock
        if process.poll():
            raise _start_failed(home, f"it ended with exit code {process.returncode}")
        if not told and on_wait is not None and monotonic() - begun > PATIENCE:
            on_wait("Starting the engine …")
            told = True
        tick.wait(0.01)
    raise _start_failed(home, f"it did not answer within {START_TIMEOUT:.0f} s")


def _start_failed(home: Home, what: str) -> EngineStartFailed:
    lines = home.engine_log.read_text(errors="replace").splitlines()[-8:]
    return EngineStartFailed(
        f"The engine could not be started: {what}. The end of {home.engine_log}:\n"
        + "\n".join(lines),
        hint="Try again: dstack-jupyter doctor tells what is missing on this computer.",
    )
