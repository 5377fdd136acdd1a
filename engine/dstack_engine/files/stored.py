"""A run's project files in the engine's store, put into a working directory as copies.

Hosts use it as `hosts.base.Files`: a Docker host takes a tar, a process host a folder. Copies are
real ones, never hard links: what a job writes must not reach the store or another run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from dstack_engine.errors import StoreError
from dstack_engine.files.disk import CHUNK, disk_errors, in_chunks, write_all
from dstack_engine.files.layers import FileLayer, can_be_told, changes_between, tar_header
from dstack_engine.files.manifest import PROGRAM_MODE, Entry, EntryKind, folders_of, show_path

#: Files up to so many bytes are copied by one read and one write.
SMALL = 1 << 16


def blob_path(blobs: Path, digest: str) -> str:
    """Return where the content of that digest lies."""
    return f"{blobs}/{digest[:2]}/{digest[2:]}"


@dataclass(frozen=True)
class StoredFiles:
    """The files of one tree; keeps `hosts.base.Files`."""

    digest: str
    entries: tuple[Entry, ...] = field(repr=False)
    blobs: Path = field(repr=False)
    #: Returns the entries of another tree; None when it is not in the store any more.
    entries_of: Callable[[str], tuple[Entry, ...] | None] = field(
        default=lambda digest: None, repr=False, compare=False
    )

    @property
    def size(self) -> int:
        """Return the bytes of all contents."""
        return sum(entry.size for entry in self.entries)

    def layer(self, folder: str, since: str | None = None) -> FileLayer | None:
        """Return what turns the files *since* into these; see `hosts.base.TellsChanges`."""
        before = () if since is None else self.entries_of(since)
        if before is None or not can_be_told(self.entries):
            return None
        changes = changes_between(before, self.entries)
        return FileLayer(folder, changes, int(time.time()), self.content_pieces)

    def write_tar(self, target: BinaryIO) -> None:
        """Write all files as an uncompressed GNU tar: owner root, times of now.

        Raises `StoreError` when a content is lost, and what *target* raises.
        """
        for chunk in in_chunks(self._tar_pieces(int(time.time()))):
            target.write(chunk)

    def copy_to(self, folder: Path) -> None:
        """Put copies of all files under *folder*; repeated, they replace what is there.

        Symlinks come last, so that nothing is written through one. Raises `DiskFull`,
        `StoreError`.
        """
        with disk_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for below in folders_of(self.entries):
                _make_folder(folder / below)
            for entry in self.entries:
                if entry.kind is EntryKind.FILE:
                    self._copy_content(entry, f"{folder}/{entry.path}")
            for entry in self.entries:
                if entry.kind is EntryKind.SYMLINK:
                    _clear(f"{folder}/{entry.path}")
                    (folder / entry.path).symlink_to(entry.target)

    def _tar_pieces(self, now: int) -> Iterator[bytes]:
        for folder in folders_of(self.entries):
            yield tar_header(folder, tarfile.DIRTYPE, PROGRAM_MODE, now)
        for entry in self.entries:
            match entry.kind:
                case EntryKind.FILE:
                    yield tar_header(entry.path, tarfile.REGTYPE, entry.mode, now, entry.size)
                    yield from self.content_pieces(entry)
                    yield bytes(-entry.size % tarfile.BLOCKSIZE)
                case EntryKind.SYMLINK:
                    yield tar_header(entry.path, tarfile.SYMTYPE, 0o777, now, link=entry.target)
                case EntryKind.FOLDER:
                    pass  # among the folders
        yield bytes(2 * tarfile.BLOCKSIZE)

    def content_pieces(self, entry: Entry) -> Iterator[bytes]:
        """Yield the content of a file. Raises `StoreError` when it is lost."""
        with self._content(entry) as source:
            left = entry.size
            while left and (piece := os.read(source, min(CHUNK, left))):
                left -= len(piece)
                yield piece

    def _copy_content(self, entry: Entry, path: str) -> None:
        with self._content(entry) as source, _created(path) as destination:
            if entry.size <= SMALL:
                write_all(destination, os.read(source, SMALL))
            else:
                _copy_large(source, destination, entry.size)
            # The mode given to open() is cut by the umask.
            os.fchmod(destination, entry.mode)

    @contextlib.contextmanager
    def _content(self, entry: Entry) -> Iterator[int]:
        """Open the content of a file, whole."""
        try:
            descriptor = os.open(blob_path(self.blobs, entry.digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise StoreError(
                f"the content of {show_path(entry.path)} is lost; submit again"
            ) from error
        try:
            if os.fstat(descriptor).st_size != entry.size:
                raise StoreError(f"the content of {show_path(entry.path)} is damaged; submit again")
            yield descriptor
        finally:
            os.close(descriptor)


def _make_folder(path: Path) -> None:
    """Make a folder, in the place of whatever else is there."""
    try:
        path.mkdir(mode=PROGRAM_MODE)
    except FileExistsError:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            path.mkdir(mode=PROGRAM_MODE)


@contextlib.contextmanager
def _created(path: str) -> Iterator[int]:
    """Open a new file, in the place of whatever is there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        _clear(path)
        descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _clear(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108 -- thousands of them
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        shutil.rmtree(path)


def _copy_large(source: int, destination: int, size: int) -> None:
    """Copy in the kernel, which shares blocks where the file system can; otherwise by hand."""
    left = size
    if hasattr(os, "copy_file_range"):
        with contextlib.suppress(OSError):
            while left and (copied := os.copy_file_range(source, destination, left)):
                left -= copied
    while left and (piece := os.read(source, min(CHUNK, left))):
        write_all(destination, piece)
        left -= len(piece)
