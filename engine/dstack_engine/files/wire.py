"""The stream in which contents travel from client to engine.

A stream is frames, one per content: the digest (32 bytes), the size (8 bytes, big-endian), and so
many bytes. A frame of zeros ends it, so that a stream cut short is noticed. `files.uploads` writes
it on the client's side, `files.blobs` reads it on the engine's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from dstack_engine.errors import Refused
from dstack_engine.files.disk import CHUNK, in_chunks

HEADER = 40
END = bytes(HEADER)


def write_frame(digest: str, size: int, descriptor: int) -> Iterator[bytes]:
    """Yield one frame, its content read from *descriptor*, in pieces.

    It is *size* bytes long in any case: a file grown shorter is filled up with zeros, and found
    out by its digest.
    """
    yield bytes.fromhex(digest) + size.to_bytes(8, "big")
    left = size
    while left:
        try:
            piece = os.read(descriptor, min(CHUNK, left))
        except OSError:
            piece = b""
        piece = piece or bytes(min(CHUNK, left))
        left -= len(piece)
        yield piece


def gather(frames: Iterable[bytes], on_sent: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the frames in chunks of a good size, with the end behind them.

    *on_sent* hears the length of every chunk once it is taken.
    """
    for chunk in in_chunks(chain(frames, (END,))):
        yield chunk
        on_sent(len(chunk))


@dataclass(frozen=True)
class Frame:
    """One content announced on the stream; its bytes follow and must be read."""

    digest: str
    size: int
    pieces: Iterator[memoryview]


def read_frames(chunks: Iterable[bytes]) -> Iterator[Frame]:
    """Yield the frames of a stream, cut up in whatever way.

    Raises `Refused` for a stream that ends early or goes on behind its end.
    """
    stream = _Stream(chunks)
    while (header := b"".join(stream.take(HEADER))) != END:
        size = int.from_bytes(header[32:], "big")
        pieces = stream.take(size)
        yield Frame(header[:32].hex(), size, pieces)
        for _ in pieces:
            continue  # whatever the reader left
    if stream.has_more():
        raise Refused("the stream of files goes on behind its end")


class _Stream:
    """Bytes taken from chunks of any length."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def take(self, size: int) -> Iterator[memoryview]:
        """Yield exactly *size* bytes, in pieces."""
        while size:
            if not self._rest and not self._fill():
                raise Refused("the stream of files ended too early; submit again")
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            yield piece

    def has_more(self) -> bool:
        """Tell whether anything is left."""
        return bool(self._rest) or self._fill()

    def _fill(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._rest = memoryview(chunk)
                return True
        return False
