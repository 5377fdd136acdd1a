"""Unix sockets at paths of any length: their addresses hold 107 bytes, and homes may lie deeper.

Used wherever the engine, the gateway and the supervisors talk through a socket in the home; the
supervisors' bare interpreter runs it, so it imports nothing that takes long.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as RawSocket
    from pathlib import Path

#: Bytes that the address of a unix socket holds, less the one that ends it.
_LONGEST_ADDRESS = 107


class ShortPath:
    """A path that a unix socket's address can hold: *path*, or its folder's descriptor's."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._folder: int | None = None

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= _LONGEST_ADDRESS:
            return self._path
        folder, _, name = self._path.rpartition("/")
        self._folder = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._folder}/{name}"

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            os.close(self._folder)


def bind(listener: RawSocket, path: Path) -> None:
    """Bind *listener* to *path* (0600), in the place of an earlier process's socket."""
    path.unlink(missing_ok=True)
    with ShortPath(path) as short:
        listener.bind(short)
    path.chmod(0o600)
