"""Digests of files, remembered from scan to scan, so that unchanged files are not read again.

`files.tree` asks by path and by what `lstat` says. One small file per project in the home's cache:
written whole and renamed, so kernels that scan at once do not disturb each other; checked by its
own digest, so a damaged one counts as empty and is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

logger = logging.getLogger(__name__)

#: A file changed so shortly before it was read may change again within the same timestamp, in
#: nanoseconds: two seconds are the coarsest timestamps in use (FAT).
RACY = 2_000_000_000
#: A project not scanned for so long is forgotten, in seconds: 90 days.
FORGET_AFTER = 90 * 86_400
#: A remembered project is read so far, in bytes.
LARGEST_MEMORY = 200_000_000
CHUNK = 1 << 20
#: A file that changes while it is read is read so often.
READINGS = 3

#: size, mtime_ns, ctime_ns, inode
Marks = tuple[int, int, int, int]


@dataclass(frozen=True)
class Content:
    """What was read of a file: its first `size` bytes have this `digest`."""

    size: int
    digest: str
    #: Whether the file can be known by `marks` from now on: it was quiet before and meanwhile.
    settled: bool
    marks: Marks


def marks_of(status: os.stat_result) -> Marks:
    """Return what tells a changed file from an unchanged one."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def open_file(path: str) -> int:
    """Open a regular file for reading, never a symlink, never waiting for a fifo's other end.

    Raises `OSError`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a file any more")
    return descriptor


def read_content(path: str, on_bytes: Callable[[int], None]) -> Content:
    """Read a file and return its content's digest; a file still written to counts as it is now.

    Raises `OSError`. *on_bytes* hears how many bytes were read, chunk by chunk.
    """
    descriptor = open_file(path)
    try:
        for _ in range(READINGS):
            begun, before = time.time_ns(), os.fstat(descriptor)
            size, digest = _read_first(descriptor, before.st_size, on_bytes)
            quiet = marks_of(os.fstat(descriptor)) == marks_of(before)
            if quiet:
                break
            os.lseek(descriptor, 0, os.SEEK_SET)
        racy = max(before.st_mtime_ns, before.st_ctime_ns) > begun - RACY
        return Content(size, digest, quiet and not racy, marks_of(before))
    finally:
        os.close(descriptor)


def _read_first(descriptor: int, size: int, on_bytes: Callable[[int], None]) -> tuple[int, str]:
    """Return how many bytes, at most *size*, there are, and their digest."""
    sha, read = hashlib.sha256(), 0
    while read < size:
        chunk = os.read(descriptor, min(CHUNK, size - read))
        if not chunk:
            break
        sha.update(chunk)
        read += len(chunk)
        on_bytes(len(chunk))
    return read, sha.hexdigest()


class HashMemory:
    """The digests of one project's files as they were when last looked at."""

    def __init__(self, folder: Path, root: Path) -> None:
        name = hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
        self._file = folder / name
        self._before = self._load()
        self._now: dict[str, list[object]] = {}

    def find(self, path: str, status: os.stat_result) -> str | None:
        """Return the digest of the file at *path* if it has not changed since."""
        row = self._before.get(path)
        if row is None or row[:4] != list(marks_of(status)):
            return None
        self._now[path] = row
        return str(row[4])

    def keep(self, path: str, content: Content) -> None:
        """Remember what was read, if the file had settled."""
        if content.settled:
            self._now[path] = [*content.marks, content.digest]

    def save(self) -> None:
        """Write down what was learnt; without effect where that cannot be done."""
        if self._now == self._before:
            return
        body = json.dumps(self._now, separators=(",", ":")).encode("ascii")
        try:
            self._write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            self._forget_old()
        except OSError as error:
            logger.debug("digests are not remembered: %s", error)

    def _load(self) -> dict[str, list[object]]:
        try:
            with self._file.open("rb") as stream:
                checksum, _, body = stream.read(LARGEST_MEMORY).partition(b"\n")
            if hashlib.sha256(body).hexdigest().encode() != checksum:
                return {}
            rows = json.loads(body)
        except (OSError, ValueError):
            return {}
        return rows if isinstance(rows, dict) else {}

    def _write(self, text: bytes) -> None:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._file.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(text)
            Path(name).replace(self._file)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise

    def _forget_old(self) -> None:
        oldest = time.time() - FORGET_AFTER
        for file in self._file.parent.iterdir():
            with contextlib.suppress(OSError):
                if file.stat().st_mtime < oldest:
                    file.unlink()
