"""The ear for supervisors: each job's supervisor rings when it starts, prints and ends.

One datagram socket in the home (`wake.sock`). A ring that is lost costs time, never data: streams
look again by themselves.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from dstack_engine import unix_sockets


class WakeListener:
    """Calls back for every datagram until closed."""

    def __init__(self, path: Path, on_ring: Callable[[bytes], None]) -> None:
        """Listen at *path* (0600), taking the place of an earlier engine's socket."""
        self._path = path
        self._on_ring = on_ring
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        unix_sockets.bind(self._socket, path)
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
