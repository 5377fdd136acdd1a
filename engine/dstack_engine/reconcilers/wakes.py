"""The ear for supervisors: each job's supervisor rings when it starts, prints and ends.

One datagram socket in the home (`wake.sock`). A ring that is lost costs time, never data: streams
look again by themselves.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path


class WakeListener:
    """Calls back for every datagram until closed."""

    def __init__(self, path: Path, on_ring: Callable[[bytes], None]) -> None:
        """Listen at *path* (0600), taking the place of an earlier engine's socket."""
        path.unlink(missing_ok=True)
        self._path = path
        self._on_ring = on_ring
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        _bind(self._socket, path)
        os.chmod(path, 0o600)  # noqa: PTH101
        self._thread = threading.Thread(target=self._listen, name="wakes", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """End; may be called twice."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _listen(self) -> None:
        while True:
            try:
                ring = self._socket.recv(4096)
            except OSError:
                return
            if not ring:
                return
            self._on_ring(ring)


def _bind(listener: socket.socket, path: Path) -> None:
    # A unix socket's address holds 107 bytes at most, and homes may be longer.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
