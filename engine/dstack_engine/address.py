"""Where the home's engine listens: `engine.json`, and the lock that tells whether it is true.

The engine writes it, clients read it. The lock's file names the pid of the engine that holds it,
so an `engine.json` left over from a crash deceives nobody.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from dataclasses import asdict, dataclass, field
from io import FileIO

from dstack_engine.errors import EngineDown
from dstack_engine.home import Home

#: How often, and how many seconds apart, an engine that starts tries to get the lock.
LOCK_ATTEMPTS = 25
LOCK_PAUSE = 0.02


@dataclass(frozen=True)
class EngineAddress:
    """What `engine.json` says: where the engine listens, and the word that it wants to hear."""

    port: int
    token: str = field(repr=False)
    pid: int
    version: str
    protocol: int

    @property
    def url(self) -> str:
        """Return the base of every endpoint's address."""
        return f"http://127.0.0.1:{self.port}"


def find_engine(home: Home) -> EngineAddress | None:
    """Return where the home's engine is, or None where none lives."""
    holder = _lock_holder(home)
    if holder is None:
        return None
    address = _read(home)
    return address if address is not None and address.pid == holder else None


def has_crashed(home: Home) -> bool:
    """Tell whether the last engine went without goodbye: its `engine.json` lies there, unlocked."""
    return home.engine_file.exists() and _lock_holder(home) is None


def no_engine() -> EngineDown:
    """Return the error for an engine that is not there."""
    return EngineDown(
        "No engine runs.",
        hint="Start it: %dstack engine start, or in a terminal: dstack-jupyter engine start.",
    )


def take_lock(home: Home) -> FileIO | None:
    """Take the engine's lock for this process; None when another engine lives."""
    file = open(home.engine_lock, "a+b", buffering=0)  # noqa: SIM115, PTH123  # held for life
    os.chmod(home.engine_lock, 0o600)  # noqa: PTH101
    if not _lock_alone(file):
        file.close()
        return None
    file.truncate(0)
    file.write(str(os.getpid()).encode())
    return file


def _lock_alone(file: FileIO) -> bool:
    """Tell whether the lock was had; somebody who only looks holds it for an instant."""
    pause = threading.Event()
    for _ in range(LOCK_ATTEMPTS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pause.wait(LOCK_PAUSE)
        else:
            return True
    return False


def publish(home: Home, address: EngineAddress) -> None:
    """Write `engine.json` (0600) in one step."""
    draft = home.engine_file.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(address), file)
    draft.replace(home.engine_file)


def _read(home: Home) -> EngineAddress | None:
    try:
        return EngineAddress(**json.loads(home.engine_file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _lock_holder(home: Home) -> int | None:
    try:
        with home.engine_lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or b"0")
    except (OSError, ValueError):
        return None
    return None
