"""The engine's store of project files: contents by digest, and manifests that list them.

The API layer calls it with plain bytes and iterators of bytes; the job loop takes a run's files
from it; `prune` gives back what no run needs. Layout, everything 0600 in folders 0700::

    files/blobs/ab/cdef…    one content, named by its SHA-256
    files/trees/<digest>    one manifest
    files/incoming/         contents half-received
    files/lock              held shared while a tree is looked up, alone while pruning
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

from dstack_engine.errors import Conflict, NotFound, Refused, TooLarge
from dstack_engine.files.disk import disk_errors, write_all
from dstack_engine.files.manifest import (
    LARGEST_MANIFEST,
    PROJECT_LIMITS,
    Entry,
    EntryKind,
    FileLimits,
    decode_manifest,
    digest_of,
    is_digest,
    show_size,
)
from dstack_engine.files.stored import StoredFiles, blob_path
from dstack_engine.files.wire import Frame, read_frames
from dstack_engine.home import Home

logger = logging.getLogger(__name__)

#: What was asked for or received so recently is kept though no run names it yet: it is on its way.
GRACE = timedelta(hours=1)


class BlobStore:
    """The contents and manifests in one home; safe for several threads and uploads at once."""

    def __init__(self, home: Home, limits: FileLimits = PROJECT_LIMITS) -> None:
        self._folder = home.files
        self._blobs = home.files / "blobs"
        self._trees = home.files / "trees"
        self._incoming = home.files / "incoming"
        self._limits = limits
        #: The manifest read last: each is asked about before it is kept.
        self._decoded: tuple[str, tuple[Entry, ...]] = ("", ())
        for folder in (self._blobs, self._trees, self._incoming):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def missing(self, manifest: bytes) -> list[str]:
        """Return the digests of the contents that are not here, and hold on to those that are.

        Raises `Refused` for a bad manifest, `TooLarge` for one above the limits.
        """
        entries = self._decode(manifest, digest_of(manifest))
        with self._locked(fcntl.LOCK_SH):
            return self._absent(entries)

    def receive(self, chunks: Iterable[bytes]) -> list[str]:
        """Take the contents from a stream of frames; return the digests that did not match.

        What came whole before an error is kept, so a repeat is shorter. Raises `Refused` for a
        broken stream, `TooLarge` above the limits, `DiskFull`.
        """
        dropped: list[str] = []
        count, total = 0, 0
        with disk_errors(self._folder):
            for frame in read_frames(chunks):
                count, total = count + 1, total + frame.size
                if count > self._limits.max_files or total > self._limits.max_bytes:
                    allowed = show_size(self._limits.max_bytes)
                    raise TooLarge(f"more was sent than the {allowed} that are taken at once")
                if not self._receive_one(frame):
                    dropped.append(frame.digest)
        return dropped

    def keep_tree(self, manifest: bytes) -> str:
        """Keep a manifest whose contents are all here; return the digest that names it.

        Raises `Conflict` when some are not here, and what `missing` raises.
        """
        digest = digest_of(manifest)
        entries = self._decode(manifest, digest)
        with self._locked(fcntl.LOCK_SH), disk_errors(self._folder):
            absent = self._absent(entries)
            if absent:
                raise Conflict(f"{len(absent):,} of the project's files are not uploaded yet")
            self._write(manifest, self._trees / digest)
        return digest

    def files(self, digest: str) -> StoredFiles:
        """Return the files that *digest* names. Raises `NotFound`."""
        manifest = self._read_tree(digest)
        if manifest is None or digest_of(manifest) != digest:
            raise NotFound(f"the project's files {digest[:12]!r} are not in the engine's store")
        # Limits may have been lowered since; what was taken then is still good.
        entries = decode_manifest(manifest, FileLimits(max_files=2**31, max_bytes=2**63))
        return StoredFiles(digest, entries, self._blobs, self._entries_of)

    def _entries_of(self, digest: str) -> tuple[Entry, ...] | None:
        try:
            return self.files(digest).entries
        except (NotFound, Refused):
            return None

    def prune(self, keep: set[str], *, grace: timedelta = GRACE) -> int:
        """Remove the trees not in *keep* and the contents that no tree needs; return bytes freed.

        What an upload touched less than *grace* ago stays.
        """
        oldest = time.time() - grace.total_seconds()
        with self._locked(fcntl.LOCK_EX):
            freed = sum(
                _remove(tree)
                for tree in self._trees.iterdir()
                if tree.name not in keep and _is_older(tree, oldest)
            )
            freed += sum(_remove(f) for f in self._incoming.iterdir() if _is_older(f, oldest))
            return freed + self._prune_blobs(oldest)

    def _prune_blobs(self, oldest: float) -> int:
        needed: set[str] = set()
        for tree in self._trees.iterdir():
            try:
                needed.update(entry.digest for entry in self.files(tree.name).entries)
            except (NotFound, Refused) as error:
                logger.warning("no project files are pruned: %s", error)
                return 0
        return sum(
            _remove(blob)
            for folder in self._blobs.iterdir()
            for blob in folder.iterdir()
            if folder.name + blob.name not in needed and _is_older(blob, oldest)
        )

    def _decode(self, manifest: bytes, digest: str) -> tuple[Entry, ...]:
        known, entries = self._decoded
        if known != digest:
            entries = decode_manifest(manifest, self._limits)
            self._decoded = (digest, entries)
        return entries

    def _absent(self, entries: Iterable[Entry]) -> list[str]:
        """Return the digests not here, or not whole; touch the others, so that they stay."""
        now = time.time()
        sizes = {entry.digest: entry.size for entry in entries if entry.kind is EntryKind.FILE}
        absent = []
        for digest, size in sizes.items():
            path = blob_path(self._blobs, digest)
            try:
                status = os.stat(path)  # noqa: PTH116 -- thousands of them
                if status.st_mtime < now - GRACE.total_seconds() / 4:
                    os.utime(path)
            except FileNotFoundError:
                absent.append(digest)
                continue
            if status.st_size != size:
                absent.append(digest)
        return absent

    def _receive_one(self, frame: Frame) -> bool:
        """Write one content under its digest; return False for one that is not what it says."""
        temporary = self._new_name()
        sha = hashlib.sha256()
        try:
            with _create(temporary) as descriptor:
                for piece in frame.pieces:
                    sha.update(piece)
                    write_all(descriptor, piece)
            if sha.hexdigest() != frame.digest:
                return False
            _move(temporary, blob_path(self._blobs, frame.digest))
            return True
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108 -- thousands of them

    def _write(self, content: bytes, path: Path) -> None:
        temporary = self._new_name()
        try:
            with _create(temporary) as descriptor:
                write_all(descriptor, content)
            _move(temporary, str(path))
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108 -- as above

    def _read_tree(self, digest: str) -> bytes | None:
        if not is_digest(digest):
            return None
        try:
            with (self._trees / digest).open("rb") as stream:
                return stream.read(LARGEST_MANIFEST + 1)
        except FileNotFoundError:
            return None

    def _new_name(self) -> str:
        return f"{self._incoming}/{threading.get_ident():x}-{secrets.token_hex(8)}"

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold the store's lock, which other engines' and tests' stores of this home see too."""
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _create(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _move(temporary: str, path: str) -> None:
    """Rename into place, making the folder on the way if it is the first in it."""
    try:
        os.rename(temporary, path)  # noqa: PTH104 -- thousands of them
    except FileNotFoundError:
        Path(path).parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(temporary, path)  # noqa: PTH104 -- as above


def _is_older(path: Path, oldest: float) -> bool:
    try:
        return path.stat().st_mtime <= oldest
    except FileNotFoundError:
        return False


def _remove(path: Path) -> int:
    """Remove a file; return the bytes that this freed."""
    try:
        size = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    return size
