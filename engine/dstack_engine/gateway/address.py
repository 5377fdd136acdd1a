"""Where the home's gateway is: `gateway/address.json`, the lock that tells whether it is true, and
the control sockets.

The gateway writes the address, `link` reads it. Nothing here knows the proxy's libraries, so that
the engine need not load them.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

from dstack_engine import presence, unix_sockets
from dstack_engine.home import Home, write_private


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
    return presence.find(_address_file(home), _lock_file(home), GatewayAddress)


def read_address(home: Home) -> GatewayAddress | None:
    """Return what the last gateway wrote, be it alive or not."""
    return presence.read(_address_file(home), GatewayAddress)


def write_address(home: Home, address: GatewayAddress) -> None:
    """Write `address.json` (0600) in one step."""
    write_private(_address_file(home), json.dumps(asdict(address)).encode())


def take_lock(home: Home) -> FileIO | None:
    """Take the gateway's lock for this process; None when another gateway lives."""
    return presence.take_lock(_lock_file(home))


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
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unix_sockets.bind(listener, path)
    return listener


def connect_control(path: Path, timeout: float | None) -> socket.socket:
    """Return a socket connected to *path*; *timeout* in seconds. Raises `OSError`."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        with unix_sockets.ShortPath(path) as short:
            connection.connect(short)
    except OSError:
        connection.close()
        raise
    return connection


def _address_file(home: Home) -> Path:
    return home.gateway / "address.json"


def _lock_file(home: Home) -> Path:
    return home.gateway / "lock"
