"""The format of a job's log: frames, and the segment files that hold them.

Used by `hosts.logs` alone, which says what a log is. A bare interpreter can import it.
"""

from __future__ import annotations

import errno
import os
import struct

STDOUT = 1
STDERR = 2
#: Not output: a mark, made by the reader, where output was not kept.
CUT = 3

#: Added to a stream's code: output that was kept before its source had told of it, as the Docker
#: Engine tells of a line only when it has ended; see `hosts.docker_logs`.
EARLY = 0x10
#: Added to a stream's code: no output, but a note about such a piece of it.
NOTE = 0x20
#: What of a code is the stream.
STREAM_BITS = 0x0F

_CODES = frozenset(kind | code for kind in (0, EARLY, NOTE) for code in (STDOUT, STDERR))

#: The word for each stream, as in `records.events.Stream`.
STREAM_NAMES = {STDOUT: "stdout", STDERR: "stderr", CUT: "cut"}

HEADER = struct.Struct("<BqI")
#: Larger payloads are split; a longer frame on disk is damage.
MAX_PAYLOAD = 1 << 20
#: Frames of one stream are joined up to this size and this much time when read.
JOINED_PAYLOAD = 64 << 10
JOINED_NS = 1_000_000_000
DEFAULT_CAP = 256 << 20

_SUFFIX = ".log"


class LogFrame:
    """One piece of output; `next_offset` is where reading continues after it."""

    __slots__ = ("next_offset", "offset", "payload", "stream", "time_ns")

    def __init__(
        self, offset: int, next_offset: int, stream: int, time_ns: int, payload: bytes
    ) -> None:
        self.offset = offset
        self.next_offset = next_offset
        self.stream = stream
        self.time_ns = time_ns
        self.payload = payload

    @property
    def stream_name(self) -> str:
        """Return the stream's word: ``stdout``, ``stderr`` or ``cut``."""
        return STREAM_NAMES[self.stream]

    def __repr__(self) -> str:
        return (
            f"LogFrame({self.offset}, {self.next_offset}, {self.stream_name}, {self.time_ns}, "
            f"{len(self.payload)} bytes)"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogFrame) and self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash(self._facts())

    def _facts(self) -> tuple[int, int, int, int, bytes]:
        return (self.offset, self.next_offset, self.stream, self.time_ns, self.payload)


def joined(block: bytes, offset: int, budget: int) -> list[LogFrame]:
    """Cut a block into frames, neighbours of one stream joined; a note is a frame of nothing."""
    frames: list[LogFrame] = []
    view = memoryview(block)
    place, total, size = 0, len(block), HEADER.size
    begin, stream, began_ns = 0, 0, 0
    parts: list[memoryview] = []
    held = 0

    def finish() -> None:
        if parts:
            payload = b"".join(parts)
            frames.append(LogFrame(offset + begin, offset + place, stream, began_ns, payload))
            parts.clear()

    while place + size <= total and budget > 0:
        code, time_ns, length = HEADER.unpack_from(block, place)
        following = place + size + length
        if following > total or not is_plausible(code, length):
            break
        kind = code & STREAM_BITS
        apart = kind != stream or held + length > JOINED_PAYLOAD or time_ns - began_ns > JOINED_NS
        if apart:
            finish()
            begin, stream, began_ns, held = place, kind, time_ns, 0
        parts.append(view[place + size : following] if code < NOTE else view[:0])
        held += length
        budget -= length
        place = following
    finish()
    return frames


def pieces(payload: bytes, size: int) -> list[bytes]:
    """Cut a payload into pieces of at most *size* bytes."""
    if len(payload) <= size:
        return [payload] if payload else []
    return [payload[i : i + size] for i in range(0, len(payload), size)]


def is_plausible(stream: int, length: int) -> bool:
    """Tell whether a header can be one of ours; damage on disk is not."""
    return stream in _CODES and 0 < length <= MAX_PAYLOAD


def whole_bytes(fd: int) -> int:
    """Return how many bytes of a segment are whole frames."""
    size = os.fstat(fd).st_size
    place = 0
    while place + HEADER.size <= size:
        stream, _, length = HEADER.unpack(os.pread(fd, HEADER.size, place))
        following = place + HEADER.size + length
        if not is_plausible(stream, length) or following > size:
            break
        place = following
    return place


def list_segments(folder: str) -> list[tuple[int, int]]:
    """Return (start, size) of the segment files, in order."""
    try:
        names = [name[: -len(_SUFFIX)] for name in os.listdir(folder) if name.endswith(_SUFFIX)]  # noqa: PTH208
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return []
    # Sizes are asked after all names are known: a segment that has a successor grows no more, so
    # what looks like a hole between two of them is one.
    starts = sorted(int(name) for name in names if name.isdigit())
    return [(start, _file_size(segment_path(folder, start))) for start in starts]


def _file_size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - pathlib is slow
    except FileNotFoundError:
        return 0


def segment_path(folder: str, start: int) -> str:
    """Return the file of the segment that begins at *start*."""
    return f"{folder}/{start:020d}{_SUFFIX}"


def end_of(segment: tuple[int, int]) -> int:
    """Return the offset after a segment's last byte."""
    return segment[0] + segment[1]


def size_in_words(count: int) -> str:
    """Return a size in words: 1 MB is 1024 KB."""
    for unit, factor in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{count} bytes"
