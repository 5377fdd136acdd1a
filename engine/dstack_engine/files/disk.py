"""Writing to disk, and what a full one is called; used by `blobs`, `stored` and `unpacking`."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from dstack_engine.errors import DiskFull, StoreError


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
