"""Whether the one process of its kind is there, and where: a home's engine, a home's gateway.

Such a process holds a lock on a file that names its pid, and writes its address into another file.
The lock goes when the process does, whatever ends it, so an address left over from a crash deceives
nobody. `address` says where the engine's files lie, `gateway.address` where the gateway's.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Protocol, TypeVar

#: How often, and how many seconds apart, a process that starts tries to get the lock.
LOCK_ATTEMPTS = 25
LOCK_PAUSE = 0.02


class Address(Protocol):
    """What such a process writes about itself, as one JSON object."""

    @property
    def pid(self) -> int:
        """Return the process that holds the lock."""


AnyAddress = TypeVar("AnyAddress", bound=Address)


def find(file: Path, lock: Path, kind: Callable[..., AnyAddress]) -> AnyAddress | None:
    """Return the address in *file*, or None where the process that wrote it does not live."""
    holder = lock_holder(lock)
    if holder is None:
        return None
    address = read(file, kind)
    return address if address is not None and address.pid == holder else None


def read(file: Path, kind: Callable[..., AnyAddress]) -> AnyAddress | None:
    """Return what the last such process wrote into *file*, be it alive or not."""
    try:
        return kind(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def take_lock(path: Path) -> FileIO | None:
    """Take the lock (0600) for this process, as long as it is open; None when another lives."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", 0)
    if not _lock_alone(file):
        file.close()
        return None
    file.truncate(0)
    file.write(str(os.getpid()).encode())
    return file


def lock_holder(path: Path) -> int | None:
    """Return the pid of the process that holds the lock, or None where none does."""
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or b"0")
    except (OSError, ValueError):
        return None
    return None


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
