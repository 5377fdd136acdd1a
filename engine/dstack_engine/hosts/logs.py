"""A job's log on disk: what it printed, byte for byte, with stream and time, up to a limit.

A log is a folder of segment files. Every piece of output is a frame: a header (stream, time in
ns, length) and its bytes. A frame's place is its *logical offset*, which counts every byte ever
written, so a place means the same after the middle of a long log was dropped. A segment's name is
the offset at which it begins.

Written by one `LogWriter` (a process-host job's supervisor, or the thread that follows a
container), read by any number of `LogReader`s while it grows. Nothing but the standard library is
imported, and little of it: the supervisor starts in milliseconds.
"""

from __future__ import annotations

import os

from dstack_engine.hosts.log_format import (
    CUT,
    DEFAULT_CAP,
    HEADER,
    JOINED_PAYLOAD,
    MAX_PAYLOAD,
    STDERR,
    STDOUT,
    LogFrame,
    end_of,
    is_plausible,
    joined,
    list_segments,
    pieces,
    segment_path,
    size_in_words,
    whole_bytes,
)

TYPE_CHECKING = False  # `typing` would cost the supervisor milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "CUT",
    "DEFAULT_CAP",
    "HEADER",
    "STDERR",
    "STDOUT",
    "LogFrame",
    "LogReader",
    "LogWriter",
]

#: How many of a frame's last bytes `LogReader.backwards` tells.
ENDING = 8

_CAP_FILE = "cap"
_READ_BLOCK = 1 << 20


class LogWriter:
    """Appends to a job's log; the only writer of its folder.

    *cap_bytes* bounds the folder, headers included: when more was written, the first half of the
    cap and the newest half stay and what lies between is deleted. A frame that a crash left
    half-written is cut off when the log is opened again.
    """

    def __init__(self, folder: str | os.PathLike[str], cap_bytes: int = DEFAULT_CAP) -> None:
        self.folder = os.fspath(folder)
        self.cap_bytes = max(cap_bytes, 4096)
        self._segment_bytes = max(min(self.cap_bytes // 16, 8 << 20), 1024)
        self._piece_bytes = min(max(self._segment_bytes, JOINED_PAYLOAD), MAX_PAYLOAD)
        os.makedirs(self.folder, mode=0o700, exist_ok=True)  # noqa: PTH103 - pathlib is slow
        self._write_cap()
        self._segments = list_segments(self.folder)
        start = self._segments[-1][0] if self._segments else 0
        self._fd = self._open(start)
        self._start = start
        self._size = whole_bytes(self._fd)
        os.ftruncate(self._fd, self._size)
        self._segments = [*self._segments[:-1], (start, self._size)]

    @property
    def end(self) -> int:
        """Return the logical offset at which the next frame will begin."""
        return self._start + self._size

    def append(self, stream: int, time_ns: int, payload: bytes) -> None:
        """Write one piece of output. Raises `OSError`, with nothing written, on a full disk."""
        self.append_many([(stream, time_ns, payload)])

    def append_many(self, frames: list[tuple[int, int, bytes]]) -> None:
        """Write pieces of output, in order, by one call of the system for each segment.

        A piece's stream may carry `EARLY` or `NOTE` of `hosts.log_format`.

        Raises `OSError` when the disk is full; the frames of the failed call are then absent as a
        whole, those before it stay.
        """
        batch: list[bytes] = []
        room = self._segment_bytes - self._size
        for stream, time_ns, payload in frames:
            for piece in pieces(payload, self._piece_bytes):
                if room <= 0:
                    self._flush(batch)
                    self._roll()
                    room = self._segment_bytes
                batch.append(HEADER.pack(stream, time_ns, len(piece)))
                batch.append(piece)
                room -= HEADER.size + len(piece)
        self._flush(batch)

    def close(self) -> None:
        """Close the file; the writer is not used again."""
        os.close(self._fd)

    def _flush(self, batch: list[bytes]) -> None:
        if not batch:
            return
        data = b"".join(batch)
        batch.clear()
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, memoryview(data)[written:])
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)
        self._segments[-1] = (self._start, self._size)

    def _roll(self) -> None:
        start = self.end
        fd = self._open(start)
        os.close(self._fd)
        self._fd, self._start, self._size = fd, start, 0
        self._segments.append((start, 0))
        self._drop_middle()

    def _drop_middle(self) -> None:
        half = self.cap_bytes // 2
        head = 0
        while head < len(self._segments) and end_of(self._segments[head]) <= half:
            head += 1
        tail_bytes = sum(size for _, size in self._segments[head:])
        while tail_bytes > half and head < len(self._segments) - 1:
            start, size = self._segments.pop(head)
            tail_bytes -= size
            os.unlink(segment_path(self.folder, start))  # noqa: PTH108 - pathlib is slow

    def _open(self, start: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(segment_path(self.folder, start), flags, 0o600)

    def _write_cap(self) -> None:
        path = f"{self.folder}/{_CAP_FILE}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, str(self.cap_bytes).encode())
        finally:
            os.close(fd)


class LogReader:
    """Reads a job's log from any place, also while it is written; holds no file open."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.fspath(folder)

    @property
    def end(self) -> int:
        """Return the offset after the last byte on disk; 0 for a log that does not exist."""
        segments = list_segments(self.folder)
        return end_of(segments[-1]) if segments else 0

    def read(self, offset: int = 0, max_bytes: int = 1 << 20) -> list[LogFrame]:
        """Return what lies at *offset*, joined to larger frames; an empty list at the end.

        Holds about *max_bytes*, and at least one frame where there is one. Continue at the last
        frame's `next_offset`. Where output was not kept, one frame of stream `CUT` says so.
        """
        for _ in range(16):
            segments = list_segments(self.folder)
            try:
                return self._read(segments, max(offset, 0), max_bytes)
            except FileNotFoundError:
                continue  # the writer dropped the segment after we had listed it
        return []

    def tail_offset(self, n_bytes: int) -> int:
        """Return the offset of the first frame within the log's last *n_bytes*."""
        segments = list_segments(self.folder)
        if not segments:
            return 0
        wanted = max(end_of(segments[-1]) - n_bytes, 0)
        for index, segment in enumerate(segments):
            if wanted < end_of(segment):
                gone = wanted < segment[0]
                if gone:
                    return end_of(segments[index - 1]) if index else 0
                return self._boundary(segment, wanted)
        return end_of(segments[-1])

    def tail(self, n_bytes: int) -> list[LogFrame]:
        """Return the frames of the log's last *n_bytes*."""
        frames: list[LogFrame] = []
        offset = self.tail_offset(n_bytes)
        end = self.end
        while offset < end and (more := self.read(offset, max(n_bytes, 1))):
            frames += more
            offset = more[-1].next_offset
        return frames

    def last_time(self) -> tuple[int, int]:
        """Return the last frame's time in ns, and how many of the last frames carry it.

        ``(0, 0)`` for an empty log. Whoever follows a source with times of its own resumes at
        that time and skips that many pieces.
        """
        last, count = 0, 0
        for segment in reversed(list_segments(self.folder)):
            times = [time_ns for _, _, time_ns, _ in self._headers(segment)]
            if not times:
                continue
            last = last or times[-1]
            same = 0
            while same < len(times) and times[-1 - same] == last:
                same += 1
            count += same
            if same < len(times):
                break
        return last, count

    def backwards(self) -> Iterator[list[tuple[int, int, int, bytes]]]:
        """Yield each segment's frames in order, the newest segment first.

        A frame is (time in ns, code, length, its last bytes, `ENDING` at most). Whoever follows a
        source with times of its own finds out from it what is stored already.
        """
        for segment in reversed(list_segments(self.folder)):
            try:
                with open(segment_path(self.folder, segment[0]), "rb") as file:  # noqa: PTH123
                    data = file.read()
            except FileNotFoundError:
                continue
            found, place = [], 0
            while place + HEADER.size <= len(data):
                code, time_ns, length = HEADER.unpack_from(data, place)
                place += HEADER.size + length
                if not is_plausible(code, length) or place > len(data):
                    break
                found.append((time_ns, code, length, data[place - min(length, ENDING) : place]))
            yield found

    def _read(self, segments: list[tuple[int, int]], offset: int, max_bytes: int) -> list[LogFrame]:
        frames: list[LogFrame] = []
        budget = max(max_bytes, 1)
        for index, segment in enumerate(segments):
            start, end = segment[0], end_of(segment)
            if offset >= end:
                continue
            lost_from, offset = offset, max(offset, start)
            got = self._read_segment(segment, offset, budget)
            if lost_from < start:
                frames.append(self._cut(lost_from, start, got[0].time_ns if got else 0))
            frames += got
            if got:
                offset = got[-1].next_offset
                budget -= sum(len(frame.payload) for frame in got)
            damaged = not got and index + 1 < len(segments)
            if budget <= 0 or (offset < end and not damaged):
                break
        return frames

    def _read_segment(self, segment: tuple[int, int], offset: int, budget: int) -> list[LogFrame]:
        block = self._block(segment, offset, budget)
        if block is None:
            offset = self._boundary(segment, offset)
            block = self._block(segment, offset, budget)
        return joined(block or b"", offset, budget)

    def _block(self, segment: tuple[int, int], offset: int, budget: int) -> bytes | None:
        """Return bytes from *offset* on, one whole frame at least; None off a frame's start."""
        with open(segment_path(self.folder, segment[0]), "rb", buffering=0) as file:  # noqa: PTH123
            file.seek(offset - segment[0])
            block = file.read(min(budget + 64 * HEADER.size, _READ_BLOCK)) or b""
            if len(block) < HEADER.size:
                return block
            stream, _, length = HEADER.unpack_from(block)
            if not is_plausible(stream, length):
                return None
            missing = HEADER.size + length - len(block)
            if missing > 0:
                block += file.read(missing) or b""
            return block

    def _boundary(self, segment: tuple[int, int], wanted: int) -> int:
        """Return the first frame's start at or after *wanted*."""
        offset = segment[0]
        for offset, next_offset, _, _ in self._headers(segment):
            if offset >= wanted:
                return offset
            offset = next_offset
        return offset

    def _headers(self, segment: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """Return (offset, next offset, time, stream) of the whole frames of a segment."""
        try:
            with open(segment_path(self.folder, segment[0]), "rb") as file:  # noqa: PTH123
                data = file.read()
        except FileNotFoundError:
            return []
        found, place = [], 0
        while place + HEADER.size <= len(data):
            stream, time_ns, length = HEADER.unpack_from(data, place)
            following = place + HEADER.size + length
            if not is_plausible(stream, length) or following > len(data):
                break
            found.append((segment[0] + place, segment[0] + following, time_ns, stream))
            place = following
        return found

    def _cut(self, offset: int, next_offset: int, time_ns: int) -> LogFrame:
        text = (
            f"\n[… {size_in_words(next_offset - offset)} of output were not kept: "
            f"the log is limited to {size_in_words(self._cap())} …]\n"
        )
        return LogFrame(offset, next_offset, CUT, time_ns, text.encode())

    def _cap(self) -> int:
        try:
            with open(f"{self.folder}/{_CAP_FILE}", "rb") as file:  # noqa: PTH123
                return int(file.read(32) or DEFAULT_CAP)
        except (FileNotFoundError, ValueError):
            return DEFAULT_CAP
