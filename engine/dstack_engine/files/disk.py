"""Writing out, in pieces of a good size, and what a full disk is called.

Used by `blobs`, `stored`, `wire` and `unpacking`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from dstack_engine.errors import DiskFull, StoreError

#: Small pieces travel together, and large ones are cut, to about so many bytes.
CHUNK = 1 << 18


def in_chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces put together into chunks of at least `CHUNK` bytes, but for the last."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        if len(waiting) >= CHUNK:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


def write_all(descriptor: int, content: memoryview | bytes) -> None:
    """Write all of *content*. Raises `OSError`."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an `OSError` into `DiskFull` or `StoreError`, naming *folder*."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Make room, or take away old runs with `prune`."
            raise DiskFull(f"the disk that holds {folder} is full", hint=hint) from error
        raise StoreError(f"files cannot be written to {folder}: {error}") from error
