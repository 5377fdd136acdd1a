"""A job's files as a tar stream, made piece by piece: the results that a user pulls.

Used by the process host. Nothing outside the given root is read: links are stored as links.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from dstack_engine.errors import NotFound

_BLOCK = 512
_CHUNK = 256 << 10


def read_tar(root: Path, path: str) -> Iterator[bytes]:
    """Yield the file or folder *path* below *root* as an uncompressed tar.

    Its entries begin with the last part of *path*; those of the root itself with ``.``. Raises
    `NotFound`, before anything is yielded, when it is missing or not below *root*.
    """
    return _archive(*_find(root, path))


def _find(root: Path, path: str) -> tuple[Path, str]:
    """Return the place of *path* and its name in the archive."""
    real_root = root.resolve()
    wanted = Path(os.path.normpath(real_root / path))
    # The last part may itself be a link, which is then stored; those before it are followed.
    found = wanted if wanted == real_root else wanted.parent.resolve() / wanted.name
    if found != real_root and real_root not in found.parents:
        raise NotFound(
            f"{path} is outside of the run's files",
            hint="Only what lies in the run's working directory can be pulled.",
        )
    if not os.path.lexists(found):
        raise NotFound(f"the run has no file {path}")
    return found, "." if found == real_root else found.name


def _archive(place: Path, name: str) -> Iterator[bytes]:
    pending = [(place, name)]
    while pending:
        place, name = pending.pop()
        header = _header(place, name)
        if header is None:
            continue
        yield header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if header.isreg():
            yield from _content(place, header.size)
        elif header.isdir():
            pending += [(entry, f"{name}/{entry.name}") for entry in _entries(place)]
    yield b"\0" * (2 * _BLOCK)


def _header(place: Path, name: str) -> tarfile.TarInfo | None:
    """Return the entry's header; None for what cannot be kept in an archive, or is gone."""
    try:
        status = place.lstat()
        header = tarfile.TarInfo(name)
        header.mode = status.st_mode & 0o7777
        header.mtime = int(status.st_mtime)
        if place.is_symlink():
            header.type, header.linkname = tarfile.SYMTYPE, os.fspath(place.readlink())
        elif place.is_dir():
            header.type = tarfile.DIRTYPE
        elif place.is_file():
            header.size = status.st_size
        else:
            return None
    except OSError:
        return None
    return header


def _content(place: Path, size: int) -> Iterator[bytes]:
    """Yield exactly *size* bytes: a file that shrinks meanwhile is filled up with zeros."""
    left = size
    try:
        with place.open("rb", buffering=0) as file:
            while left and (chunk := file.read(min(_CHUNK, left))):
                left -= len(chunk)
                yield chunk
    except (FileNotFoundError, PermissionError):
        pass
    while left:
        filler = min(_CHUNK, left)
        left -= filler
        yield b"\0" * filler
    if rest := size % _BLOCK:
        yield b"\0" * (_BLOCK - rest)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), reverse=True)
    except OSError:
        return []
