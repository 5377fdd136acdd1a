"""The list of a project's files: what each is, and the one digest that names them all.

The client builds it (`files.tree`), the engine reads it as hostile input (`files.blobs`) and puts
the files into working directories by it (`files.stored`). A manifest is canonical JSON in ASCII;
names that are not UTF-8 travel as surrogate escapes, so they come back as the very same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from dstack_engine.enums import StrEnum
from dstack_engine.errors import Refused, TooLarge

VERSION = 1
#: Linux's own bounds (limits.h): PATH_MAX and NAME_MAX, in bytes.
LONGEST_PATH, LONGEST_NAME = 4095, 255
#: A manifest is kept in memory, so it has a ceiling of its own, in bytes; 50,000 files need 8 MB.
LARGEST_MANIFEST = 100_000_000
FILE_MODE, PROGRAM_MODE = 0o644, 0o755
_DIGEST = re.compile(r"[0-9a-f]{64}")


class EntryKind(StrEnum):
    """What one name in the project is."""

    FILE = "file"  #: content, kept by its digest
    SYMLINK = "symlink"  #: kept as it is, wherever it leads
    FOLDER = "folder"  #: only those of which nothing else is listed


@dataclass(frozen=True)
class FileLimits:
    """How much of a project is taken: `files_limit` in config.yml."""

    max_files: int = 50_000
    #: All files together, in bytes.
    max_bytes: int = 512_000_000


#: What is taken where config.yml says nothing else.
PROJECT_LIMITS = FileLimits()


@dataclass(frozen=True)
class Entry:
    """One file, symlink or empty folder; the path is relative to the project, with slashes."""

    path: str
    kind: EntryKind
    mode: int = FILE_MODE
    #: In bytes; 0 for what is not a file.
    size: int = 0
    #: SHA-256 of a file's content, in hexadecimal.
    digest: str = ""
    #: Where a symlink leads, as it is written.
    target: str = ""


def encode_manifest(entries: Iterable[Entry]) -> bytes:
    """Return the canonical manifest: sorted by path, the same bytes for the same files."""
    rows = [
        (e.path, e.kind.value, e.mode, e.size, e.digest or e.target)
        for e in sorted(entries, key=lambda entry: entry.path)
    ]
    return json.dumps({"version": VERSION, "entries": rows}, separators=(",", ":")).encode("ascii")


def digest_of(manifest: bytes) -> str:
    """Return the digest that names a manifest: a run's `files`."""
    return hashlib.sha256(manifest).hexdigest()


def is_digest(text: str) -> bool:
    """Tell whether *text* is written like a digest."""
    return _DIGEST.fullmatch(text) is not None


def decode_manifest(manifest: bytes, limits: FileLimits) -> tuple[Entry, ...]:
    """Return the entries of a manifest that came from outside, every one checked.

    Raises `Refused` for anything that is not canonical or leads out of the project, `TooLarge`
    above *limits*.
    """
    if len(manifest) > LARGEST_MANIFEST:
        raise TooLarge(f"the list of files has {show_size(len(manifest))}; that is too long")
    try:
        document = json.loads(manifest)
        if document["version"] != VERSION:
            raise ValueError(f"it is of version {document['version']!r}, not {VERSION}")
        entries = tuple(_entry(row) for row in document["entries"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Refused(f"this is not a list of files that can be read: {error}") from error
    _check_together(entries, limits)
    if encode_manifest(entries) != manifest:
        raise Refused("the list of files is not written in its one canonical form")
    return entries


def _entry(row: object) -> Entry:
    """Return one row as an entry; `ValueError` says what is wrong with it."""
    if not isinstance(row, list) or [type(cell) for cell in row] != [str, str, int, int, str]:
        raise ValueError("an entry is a path, a kind, a mode, a size and a digest or target")
    path, kind, mode, size, rest = row
    entry_kind = EntryKind(kind)
    check_path(path)
    match entry_kind:
        case EntryKind.FILE:
            good = mode in (FILE_MODE, PROGRAM_MODE) and 0 <= size < 2**63 and is_digest(rest)
            entry = Entry(path, entry_kind, mode, size, digest=rest)
        case EntryKind.SYMLINK:
            good = size == 0 and 0 < len(os.fsencode(rest)) <= LONGEST_PATH and "\0" not in rest
            entry = Entry(path, entry_kind, mode, size, target=rest)
        case EntryKind.FOLDER:
            good = size == 0 and not rest
            entry = Entry(path, entry_kind, mode, size)
    if not good:
        raise ValueError(f"{path!r} has a mode, size, digest or target that cannot be")
    return entry


def check_path(path: str) -> None:
    """Raise `ValueError` for a path that is not plainly inside the project."""
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is not a path inside the project")
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise ValueError(f"the path {path[:60]!r}… is longer than {LONGEST_PATH} bytes")
    if any(len(part) > LONGEST_NAME // 4 and _too_long(part) for part in parts):
        raise ValueError(f"a name in {path[:60]!r}… is longer than {LONGEST_NAME} bytes")


def _too_long(name: str) -> bool:
    return len(os.fsencode(name)) > LONGEST_NAME


def _check_together(entries: Sequence[Entry], limits: FileLimits) -> None:
    """Refuse what no folder can hold: doubles, something below a file or a symlink, too much."""
    if len(entries) > limits.max_files:
        raise TooLarge(f"{len(entries):,} files are more than the {limits.max_files:,} allowed")
    total = sum(entry.size for entry in entries)
    if total > limits.max_bytes:
        raise TooLarge(
            f"{show_size(total)} are more than the {show_size(limits.max_bytes)} allowed"
        )
    for before, after in pairwise(entries):
        if not before.path < after.path:
            raise Refused(f"{after.path!r} is listed twice or out of order")
    leaves = {entry.path for entry in entries}
    folders: set[str] = set()
    for entry in entries:
        for parent in parents_of(entry.path):
            if parent in folders:
                break
            if parent in leaves:
                raise Refused(f"{entry.path!r} lies below {parent!r}, which is not a folder")
            folders.add(parent)


def parents_of(path: str) -> Iterable[str]:
    """Yield the folders that *path* lies in, the nearest first."""
    cut = path.rfind("/")
    while cut > 0:
        yield path[:cut]
        cut = path.rfind("/", 0, cut)


def folders_of(entries: Sequence[Entry]) -> list[str]:
    """Return every folder that the entries need, parents before what is in them."""
    folders: set[str] = set()
    for entry in entries:
        for parent in parents_of(entry.path):
            if parent in folders:
                break
            folders.add(parent)
    folders.update(entry.path for entry in entries if entry.kind is EntryKind.FOLDER)
    return sorted(folders)


def leads_out(path: str, target: str) -> bool:
    """Tell whether a symlink at *path* leads out of the project, going by its text alone."""
    if target.startswith("/"):
        return True
    depth = len(PurePosixPath(path).parts) - 1
    for part in target.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return True
    return False


def show_size(size: int) -> str:
    """Return a size in bytes as a person reads it: ``512 MB``."""
    if size < 1000:
        return f"{size} bytes"
    amount = float(size)
    for unit in ("kB", "MB", "GB"):
        amount /= 1000
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
    return f"{amount:,.0f} GB"


def show_path(path: str) -> str:
    """Return a path as it can be shown anywhere: what is not printable is escaped."""
    if path.isprintable():
        return path
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in path
    )
