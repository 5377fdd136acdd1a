"""Where the home's gateway is: `gateway/address.json`, the lock that tells whether it is true, and
the control sockets.

The gateway writes the address, `link` reads it. Nothing here knows the proxy's libraries, so that
the engine need not load them.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

from dstack_engine.home import Home

#: How often, and how many seconds apart, a gateway that starts tries to get the lock.
LOCK_ATTEMPTS = 25
LOCK_PAUSE = 0.02

#: Bytes that the address of a unix socket holds, less the one that ends it.
_LONGEST_ADDRESS = 107


@dataclass(frozen=True)
class GatewayAddress:
    """What `address.json` says."""

    #: Where it listens, on 127.0.0.1.
    port: int
    #: The process that holds the lock and the sockets.
    pid: int
    version: str
    #: What it was asked for: the port to begin with, and how many workers.
    asked: int
    processes: int


def find_gateway(home: Home) -> GatewayAddress | None:
    """Return where the home's gateway is, or None where none lives."""
    holder = _lock_holder(home)
    if holder is None:
        return None
    address = read_address(home)
    return address if address is not None and address.pid == holder else None


def read_address(home: Home) -> GatewayAddress | None:
    """Return what the last gateway wrote, be it alive or not."""
    try:
        return GatewayAddress(**json.loads(_address_file(home).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_address(home: Home, address: GatewayAddress) -> None:
    """Write `address.json` (0600) in one step."""
    file = _address_file(home)
    draft = file.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as written:
        json.dump(asdict(address), written)
    draft.replace(file)


def take_lock(home: Home) -> FileIO | None:
    """Take the gateway's lock for this process; None when another gateway lives."""
    path = _lock_file(home)
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", 0)
    if not _lock_alone(file):
        file.close()
        return None
    file.truncate(0)
    file.write(str(os.getpid()).encode())
    return file


def is_home_there(home: Home, lock: FileIO) -> bool:
    """Tell whether *lock* is still the home's: a home that was removed needs no gateway."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), _lock_file(home).stat())
    except OSError:
        return False


def control_path(home: Home, worker: int) -> Path:
    """Return the path of a worker's control socket."""
    return home.gateway / f"control-{worker}.sock"


def bind_control(path: Path) -> socket.socket:
    """Return a socket bound to *path* (0600), in place of an earlier worker's."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _ShortPath(path) as short:
        listener.bind(short)
    os.chmod(path, 0o600)  # noqa: PTH101
    return listener


def connect_control(path: Path, timeout: float | None) -> socket.socket:
    """Return a socket connected to *path*; *timeout* in seconds. Raises `OSError`."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        with _ShortPath(path) as short:
            connection.connect(short)
    except OSError:
        connection.close()
        raise
    return connection


class _ShortPath:
    """A path that a unix socket's address can hold, however deep the home lies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder: int | None = None

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= _LONGEST_ADDRESS:
            return str(self._path)
        self._folder = os.open(self._path.parent, os.O_RDONLY)
        return f"/proc/self/fd/{self._folder}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            os.close(self._folder)


def _address_file(home: Home) -> Path:
    return home.gateway / "address.json"


def _lock_file(home: Home) -> Path:
    return home.gateway / "lock"


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


def _lock_holder(home: Home) -> int | None:
    try:
        with _lock_file(home).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or b"0")
    except (OSError, ValueError):
        return None
    return None
