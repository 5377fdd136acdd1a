"""Results brought home: a tar from a job's machine, unpacked where the user wants it.

The client calls `unpack_tar` for `%dstack pull`. The tar is what a container made of its files, so
it is trusted with nothing: names may not lead out of the destination, no folder is entered
through a symlink, and devices and the like are left out. Python's own extraction is not used: its
safe filter is not in every version supported here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from dstack_engine.errors import Conflict, Refused, TooLarge
from dstack_engine.files.disk import disk_errors, write_all
from dstack_engine.files.manifest import FileLimits, check_path, leads_out, show_path, show_size

logger = logging.getLogger(__name__)

#: Results are larger than projects: model weights, data sets.
RESULT_LIMITS = FileLimits(max_files=200_000, max_bytes=200_000_000_000)
#: A long name or an extended header may have so many bytes.
LONGEST_HEADER = 1 << 20
CHUNK = 1 << 20
_HEADER_KINDS = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    }
)


def unpack_tar(
    chunks: Iterable[bytes],
    destination: Path,
    *,
    limits: FileLimits = RESULT_LIMITS,
    on_remark: Callable[[str], None] = logger.warning,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> list[Path]:
    """Unpack the uncompressed tar in *chunks* under *destination*; return the files written.

    Files there already are replaced, each whole or not at all; nothing outside is touched.
    *on_remark* hears what is left out, *on_bytes* how many bytes came. Raises `Refused` for a
    tar that is broken or leads out, `Conflict` where a file stands in a folder's place or the
    other way round, `TooLarge` above *limits*, `DiskFull`, `StoreError`.
    """
    source = cast(BinaryIO, io.BufferedReader(_ChunkReader(chunks, on_bytes), CHUNK))
    with disk_errors(destination):
        destination.mkdir(parents=True, exist_ok=True)
        unpacking = _Unpacking(destination.resolve(), limits, on_remark)
        try:
            with tarfile.open(
                fileobj=source,
                mode="r|",
                tarinfo=_BoundedMember,
                encoding="utf-8",
                errors="surrogateescape",
            ) as tar:
                for member in tar:
                    unpacking.take(tar, member)
                    tar.members = []  # type: ignore[attr-defined]  # or it remembers every one
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise Refused(f"what came is not a whole tar: {error}; pull again") from error
        unpacking.make_symlinks()
    return unpacking.written


class _BoundedMember(tarfile.TarInfo):
    """A member whose own headers are not believed to be of any length."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADER_KINDS and self.size > LONGEST_HEADER:
            raise tarfile.ReadError("a name in it is too long")
        return super()._proc_member(tar)  # type: ignore[misc,no-any-return]


class _ChunkReader(io.RawIOBase):
    """A file to read from, made of chunks."""

    def __init__(self, chunks: Iterable[bytes], on_bytes: Callable[[int], None]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")
        self._on_bytes = on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._on_bytes(len(chunk))
            self._rest = memoryview(chunk)
        length = min(len(buffer), len(self._rest))
        buffer[:length] = self._rest[:length]
        self._rest = self._rest[length:]
        return length


class _Unpacking:
    """One tar on its way into one folder."""

    def __init__(
        self, destination: Path, limits: FileLimits, on_remark: Callable[[str], None]
    ) -> None:
        self._destination = destination
        self._limits = limits
        self._on_remark = on_remark
        self._count, self._bytes = 0, 0
        self._folders: set[str] = {""}
        self._files: set[str] = set()
        self._symlinks: dict[str, str] = {}
        self.written: list[Path] = []

    def take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Write one member of the tar."""
        self._count_in(member)
        name = member.name.removeprefix("./").rstrip("/")
        if name in ("", "."):
            return
        try:
            check_path(name)
        except ValueError as error:
            raise Refused(f"the tar leads out of its folder: {error}") from error
        if member.isdir():
            self._enter(name)
        elif member.isreg():
            content = tar.extractfile(member)
            assert content is not None, "a regular file has a content"
            self._write(name, member, iter(lambda: content.read(CHUNK), b""))
        elif member.islnk():
            self._copy(name, member)
        elif not member.issym():
            self._on_remark(f"{show_path(name)} is a device or the like, and is left out")
        elif leads_out(name, member.linkname):
            target = show_path(member.linkname)
            self._on_remark(f"the symlink {show_path(name)} leads out, to {target}: left out")
        else:
            self._symlinks[name] = member.linkname

    def make_symlinks(self) -> None:
        """Make the symlinks, after everything else, so that nothing is written through one."""
        for name, target in self._symlinks.items():
            path = self._place(name)
            if path.is_dir() and not path.is_symlink():
                raise Conflict(f"{path} is a folder there, and a symlink in what came")
            path.unlink(missing_ok=True)
            path.symlink_to(target)
            self.written.append(path)
        for name in self._symlinks:
            self._check_symlink(self._destination / name)

    def _check_symlink(self, path: Path) -> None:
        """Take a symlink away that leads out by way of others, whatever its text says."""
        # realpath() goes along with loops of symlinks, where resolve() raises.
        if not Path(os.path.realpath(path)).is_relative_to(self._destination):
            path.unlink()
            self.written.remove(path)
            self._on_remark(f"the symlink {show_path(path.name)} leads out: left out")

    def _count_in(self, member: tarfile.TarInfo) -> None:
        self._count += 1
        self._bytes += member.size if member.isreg() else 0
        if self._count > self._limits.max_files:
            raise TooLarge(f"more than {self._limits.max_files:,} files came; pull fewer")
        if self._bytes > self._limits.max_bytes:
            raise TooLarge(f"more than {show_size(self._limits.max_bytes)} came; pull less")

    def _write(self, name: str, member: tarfile.TarInfo, pieces: Iterable[bytes]) -> None:
        """Write one file beside its place, then rename it there."""
        path = self._place(name)
        if path.is_dir() and not path.is_symlink():
            raise Conflict(f"{path} is a folder there, and a file in what came")
        temporary = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with _created(temporary, 0o777 if member.mode & 0o100 else 0o666) as descriptor:
                for piece in pieces:
                    write_all(descriptor, piece)
            with contextlib.suppress(OSError, OverflowError):
                os.utime(temporary, (member.mtime, member.mtime))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._files.add(name)
        self.written.append(path)

    def _copy(self, name: str, member: tarfile.TarInfo) -> None:
        """Write a hard link as the copy of a file that this very tar brought."""
        first = member.linkname.removeprefix("./").rstrip("/")
        if first not in self._files:
            self._on_remark(f"{show_path(name)} is a link to what did not come, and is left out")
            return
        original = self._place(first)
        self._bytes += original.stat().st_size
        if self._bytes > self._limits.max_bytes:
            raise TooLarge(f"more than {show_size(self._limits.max_bytes)} came; pull less")
        with original.open("rb") as content:
            self._write(name, member, iter(lambda: content.read(CHUNK), b""))

    def _place(self, name: str) -> Path:
        """Return where *name* goes; its folder is there and is no symlink."""
        self._enter(name.rpartition("/")[0])
        return self._destination / name

    def _enter(self, folder: str) -> None:
        """Make a folder and those above it, none of them through a symlink."""
        if folder in self._folders:
            return
        parts = folder.split("/")
        for count in range(1, len(parts) + 1):
            step = "/".join(parts[:count])
            if step in self._folders:
                continue
            path = self._destination / step
            if path.is_symlink():
                raise Refused(
                    f"{path} is a symlink; nothing is written through it",
                    hint="Name another destination, or the folder that it leads to.",
                )
            with contextlib.suppress(FileExistsError):
                path.mkdir()
            if not path.is_dir():
                raise Conflict(f"{path} is a file there, and a folder in what came")
            self._folders.add(step)


@contextlib.contextmanager
def _created(path: Path, mode: int) -> Iterator[int]:
    """Open a new file with what the umask leaves of *mode*."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
