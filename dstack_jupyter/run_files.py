"""The files of a run's working directory, read or copied through the engine: `Run.files`."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from dstack_engine.errors import NotFound, Refused
from dstack_engine.files.unpacking import unpack_tar
from dstack_jupyter.session import Session

#: A file read into memory by `run.files[...]` may be this large, in bytes; pull larger ones.
MAX_READ = 256_000_000


class RunFiles:
    """What lies in a run's working directory: `run.files["out/metrics.json"]`, `.pull("out")`."""

    def __init__(self, session: Session, run: str) -> None:
        """Make the view of *run*'s files."""
        self._session = session
        self._run = run

    def __getitem__(self, path: str) -> bytes:
        """Return the content of the file *path*, at most `MAX_READ` bytes.

        Raises `NotFound` for what is not there, `Refused` for a folder or a larger file.
        """
        chunks = self._session.client().read_files(self._run, path)
        reader = io.BufferedReader(_ChunkReader(chunks))
        with tarfile.open(fileobj=reader, mode="r|") as tar:
            for member in tar:
                if not member.isfile():
                    raise Refused(f"{path} is not a file; copy it: run.files.pull({path!r})")
                if member.size > MAX_READ:
                    raise Refused(
                        f"{path} has {member.size / 1e6:.0f} MB, too much to hold in memory; "
                        f"copy it: run.files.pull({path!r})"
                    )
                content = tar.extractfile(member)
                return content.read() if content else b""
        raise NotFound(f"{self._run} has no file {path}")

    def pull(self, *paths: str, to: str | Path = ".") -> list[Path]:
        """Copy *paths*, files or folders, into the folder *to*; return what was written."""
        client = self._session.client()
        written: list[Path] = []
        for path in paths:
            written += unpack_tar(client.read_files(self._run, path), Path(to))
        return written

    def __repr__(self) -> str:
        return f"<files of {self._run}>"


class _ChunkReader(io.RawIOBase):
    """A stream of chunks, to be read as a file."""

    def __init__(self, chunks: Any) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
