"""A project's files as a layer of a container image: all of them, or what has changed.

A layer is a tar; what it takes away from the layers below is named by entries that begin with
``.wh.`` (OCI image specification, 1.0, "Whiteouts"). Made by `stored` for hosts on other machines,
where only what has changed is to travel.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import BinaryIO

from dstack_engine.files.disk import in_chunks
from dstack_engine.files.manifest import PROGRAM_MODE, Entry, EntryKind, folders_of

_REMOVED = ".wh."


def tar_header(path: str, kind: bytes, mode: int, now: int, size: int = 0, link: str = "") -> bytes:
    """Return the header of one entry: GNU's form, owner root."""
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.mtime, member.size = kind, mode, now, size
    member.linkname, member.uname, member.gname = link, "root", "root"
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


@dataclass(frozen=True)
class Changes:
    """What turns one tree into another."""

    #: Folders to be there, parents first, files and symlinks to be written.
    folders: tuple[str, ...]
    entries: tuple[Entry, ...]
    #: What is to be gone; of a folder only itself.
    removed: tuple[str, ...]


def can_be_told(entries: Sequence[Entry]) -> bool:
    """Tell whether no name is one that a layer means otherwise."""
    return not any(f"/{entry.path}".find(f"/{_REMOVED}") >= 0 for entry in entries)


def changes_between(before: Sequence[Entry], after: Sequence[Entry]) -> Changes:
    """Return what turns the tree *before* into *after*."""
    old = {entry.path: entry for entry in before if entry.kind is not EntryKind.FOLDER}
    old_folders, folders = set(folders_of(before)), folders_of(after)
    entries = tuple(
        entry
        for entry in after
        if entry.kind is not EntryKind.FOLDER and old.get(entry.path) != entry
    )
    needed = set(folders_of(entries))
    here = {entry.path for entry in after} | set(folders)
    standing = {"", *folders}
    removed = (path for path in {*old, *old_folders} if path not in here)
    return Changes(
        tuple(each for each in folders if each in needed or each not in old_folders),
        entries,
        tuple(sorted(path for path in removed if path.rpartition("/")[0] in standing)),
    )


@dataclass(frozen=True)
class FileLayer:
    """Changes as a layer, below *folder*; keeps `hosts.base.Layer`."""

    folder: str
    changes: Changes = field(repr=False)
    #: When its files were changed last, in seconds since 1970.
    now: int
    content: Callable[[Entry], Iterator[bytes]] = field(repr=False)

    @cached_property
    def size(self) -> int:
        """Return how long the tar is, in bytes."""
        headers = sum(len(header) for header, _ in self._members())
        contents = sum(_padded(entry.size) for entry in self.changes.entries)
        return headers + contents + 2 * tarfile.BLOCKSIZE

    def write_tar(self, target: BinaryIO) -> None:
        """Write the tar. Raises `StoreError` when a content is lost, and what *target* raises."""
        for chunk in in_chunks(self._pieces()):
            target.write(chunk)

    def _pieces(self) -> Iterator[bytes]:
        for header, entry in self._members():
            yield header
            if entry is not None and entry.kind is EntryKind.FILE:
                yield from self.content(entry)
                yield bytes(_padded(entry.size) - entry.size)
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _members(self) -> Iterator[tuple[bytes, Entry | None]]:
        """Yield each header, with the entry whose content follows."""
        for folder in ("", *self.changes.folders):
            yield tar_header(self._place(folder), tarfile.DIRTYPE, PROGRAM_MODE, self.now), None
        for path in self.changes.removed:
            above, _, name = path.rpartition("/")
            place = self._place(f"{above}/{_REMOVED}{name}".lstrip("/"))
            yield tar_header(place, tarfile.REGTYPE, 0o600, self.now), None
        for entry in self.changes.entries:
            place = self._place(entry.path)
            if entry.kind is EntryKind.SYMLINK:
                link = tar_header(place, tarfile.SYMTYPE, 0o777, self.now, link=entry.target)
                yield link, entry
            else:
                yield tar_header(place, tarfile.REGTYPE, entry.mode, self.now, entry.size), entry

    def _place(self, path: str) -> str:
        return f"{self.folder}/{path}".rstrip("/")


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
