"""Following a container's log into the job's log on disk, exactly once, also across restarts.

The Docker Engine keeps every entry (a line, or 16 KB of a longer one) with its time in ns, in the
order in which they came. What is stored is always a beginning of that sequence, and the stored log
itself says where it ends: a frame carries the time of its last entry. So no second file can
disagree with the log after a crash. To resume, the engine is asked again for a short while before
that end, the end is searched, and what follows it is new. That holds too when entries lie in
another order than their times (two streams) and when several have the same time.

A line is an entry when it has ended, which is late for a progress bar. So the beginning of one may
be written early, as `docker_attachment` got to know of it: in frames marked `EARLY`, which are no
entries. When the entry comes, as many of its bytes are left out as were written early; one of
which nothing is left leaves a note of how many early bytes are still ahead. Thus what a stream is
ahead is known from its last frames, at any moment at which the writer may be killed.

Called by the Docker host's `attend`.
"""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from threading import Event, Lock
from time import monotonic, time_ns

from dstack_engine.errors import DiskFull
from dstack_engine.hosts.log_format import EARLY, NOTE, STREAM_BITS
from dstack_engine.hosts.logs import LogReader, LogWriter

#: How far back to ask again: entries of two streams may lie out of order by a little.
OVERLAP_NS = 1_000_000_000
#: How many of its last entries the engine is asked for first: it finds them at once, while by time
#: it searches its whole log (7 s for a million lines).
TAIL = 2000
#: The engine flushes line by line. When they come fast, a pause lets more of them gather and
#: saves most of the cost; far below what a reader notices.
GATHER_SECONDS = 0.001
GATHER_BELOW = 32 << 10

_LOCK = "writer.lock"
_READ_SIZE = 1 << 20
#: Less than `LogWriter` splits, since a frame has to keep its entries whole.
_FRAME_BYTES = 32 << 10
#: An entry: eight bytes (stream, length), ``2026-11-21T07:21:36.171146384Z``, a space, payload.
_HEADER = 8
_STAMP = 30
_SECOND = 19
#: The stream in which the engine tells its own errors; such an entry has no time.
_ENGINE_ERROR = 3
_NEWLINE = 0x0A
#: What a note says: how many early bytes are still ahead of the entry, and its last byte.
_NOTE = struct.Struct("<IB")
#: As many of a stream's last bytes are remembered to compare.
RECENT = 64

#: What a reader sees where the engine dropped output before it could be read.
LOST = b"\n[... some output was not kept: the Docker Engine's own log was full ...]\n"


class EndNotFound(Exception):
    """The engine's answer does not hold the place at which the stored log ends."""


class StreamBroken(Exception):
    """The engine has given up reading its log in mid-stream; its words are the argument.

    Version 20 does so when it reads an entry that it is just writing. What came before is stored.
    """


@dataclass(frozen=True)
class Stored:
    """Where the stored beginning of a container's log ends."""

    time_ns: int = 0
    #: Of the last entry; 0 when nothing is stored.
    stream: int = 0
    #: How many stored frames have this time and stream; the last of them is the end.
    count: int = 0
    #: Ask the engine for entries from this time on.
    since_ns: int = 0
    #: The latest time of either stream.
    newest_ns: int = 0
    #: The streams whose last stored line has no end yet, and that line's time.
    unended: dict[int, int] = field(default_factory=dict)
    #: What lay between the end and `since_ns` is lost; a mark says so.
    lost: bool = False
    #: How many bytes of each stream were written early and are yet to come as entries.
    ahead: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Stored:
        """Find out from the log on disk, reading no more of its end than tells."""
        end: tuple[int, int] | None = None
        count = 0
        last: dict[int, tuple[int, bool]] = {}
        ahead: dict[int, int] = {}
        for frames in LogReader(folder).backwards():
            for at, code, length, ending in reversed(frames):
                stream, early, last_byte = code & STREAM_BITS, 0, ending[-1]
                if code & EARLY:
                    early = length
                elif code & NOTE:
                    early, last_byte = _NOTE.unpack(ending)
                if early and stream not in last:
                    ahead[stream] = ahead.get(stream, 0) + early
                if not code & EARLY:
                    end = end or (at, stream)
                    last.setdefault(stream, (at, last_byte == _NEWLINE))
            same = sum((at, code & ~NOTE) == end for at, code, _, _ in frames)
            count += same
            if len(last) == 2 and not same:
                break
        if end is None:
            return cls(ahead=ahead)
        unended = {stream: at for stream, (at, ended) in last.items() if not ended}
        # All pieces of a line carry the time at which it began: an unended line goes on with that.
        since = max(min([end[0], *unended.values()]) - OVERLAP_NS, 0)
        newest = max(at for at, _ in last.values())
        return cls(*end, count, since, newest, unended, ahead=ahead)

    def given_up(self) -> Stored:
        """Return where to go on when the engine has dropped the place at which this ends."""
        return Stored(since_ns=self.newest_ns + 1, newest_ns=self.newest_ns, lost=True)


class Delivered:
    """What of a container's output, from its beginning on, has come as entries, by stream."""

    def __init__(self) -> None:
        self.total: dict[int, int] = {}
        #: The last bytes of it, `RECENT` at most.
        self.recent: dict[int, bytes] = {}

    def add(self, stream: int, payload: bytes) -> None:
        """Count what has come now."""
        self.total[stream] = self.total.get(stream, 0) + len(payload)
        ending = payload[-RECENT:]
        if len(ending) < RECENT:
            ending = (self.recent.get(stream, b"") + ending)[-RECENT:]
        self.recent[stream] = ending


class LogCopier:
    """Turns the engine's stream into frames of the job's log; new entries only.

    Raises `EndNotFound`, with nothing written, when the end of what is stored is not where it has
    to be: among the first *within* entries, or among those of its time.
    """

    def __init__(
        self,
        writer: LogWriter,
        stored: Stored,
        *,
        within: int | None = None,
        delivered: Delivered | None = None,
    ) -> None:
        self._writer = writer
        self._lock = Lock()
        #: Why the last early bytes could not be written.
        self._full: OSError | None = None
        self._delivered = Delivered() if delivered is None else delivered
        #: Never holds a stream of which nothing is ahead.
        self._ahead = dict(stored.ahead)
        self._stored = stored
        self._within = within
        self._seen = 0
        #: How often the end's time and stream are still to come; 0 means: all that comes is new.
        self._to_find = stored.count
        self._rest = b""
        self._seconds: dict[bytes, int] = {}
        self._unended = dict(stored.unended)
        self._lost = stored.lost
        self._error: str | None = None

    def feed(self, block: bytes) -> None:
        """Store the entries of *block*; a piece of an entry waits for the next block.

        Raises `DiskFull`, and `StreamBroken` at an error of the engine; what was stored until then
        is found again when the log is resumed.
        """
        with self._lock:
            self._feed(block)

    def write_early(self, choose: Callable[[Mapping[int, int]], Mapping[int, bytes]]) -> bool:
        """Write what *choose* returns for each stream; return whether there was anything.

        It is told how many bytes of each stream are ahead. Nothing is written before the end of
        what is stored was found, nor on a full disk. For another thread than the one that feeds.
        """
        with self._lock:
            if self._to_find or self._full:
                return False
            chosen = choose(self._ahead)
            at = time_ns()
            try:
                self._writer.append_many([(s | EARLY, at, piece) for s, piece in chosen.items()])
            except OSError as error:
                self._full = error  # Some of it may be there: the log has to be looked at again.
                return False
            for stream, piece in chosen.items():
                self._ahead[stream] = self._ahead.get(stream, 0) + len(piece)
            return bool(chosen)

    def _feed(self, block: bytes) -> None:
        entries = self._rest + block if self._rest else block
        start = self._skip(entries) if self._to_find else 0
        frames = self._frames(entries, start)
        if self._lost and frames:
            # Not at the time of an entry, or the mark would be counted as one.
            code, at, _ = frames[0]
            frames.insert(0, (code & STREAM_BITS, at - 1, LOST))
            self._lost = False
        try:
            if self._full is not None:
                raise self._full
            self._writer.append_many(frames)
        except OSError as error:
            folder = self._writer.folder
            raise DiskFull(f"cannot keep the job's log in {folder}: {error}") from error
        if self._error is not None:
            raise StreamBroken(self._error)

    def finish(self) -> None:
        """Be told that nothing more comes."""
        if self._to_find:
            raise EndNotFound

    def _skip(self, entries: bytes) -> int:
        """Return where the first new entry begins, or the first incomplete one."""
        place, total = 0, len(entries)
        while self._to_find and place + _HEADER <= total:
            end = _entry_end(entries, place)
            if end > total or entries[place] == _ENGINE_ERROR:
                break
            at = self._time(entries[place + _HEADER : place + _HEADER + _STAMP])
            if at > self._stored.newest_ns + OVERLAP_NS or self._seen == self._within:
                raise EndNotFound
            if at == self._stored.time_ns and entries[place] == self._stored.stream:
                self._to_find -= 1
            place = end
            self._seen += 1
        return place

    def _frames(self, entries: bytes, place: int) -> list[tuple[int, int, bytes]]:
        """Join neighbours of one stream and second, but never two of the same time."""
        frames: list[tuple[int, int, bytes]] = []
        parts: list[bytes] = []
        held, run, last, second = 0, 0, b"", b""
        unended, ahead, total = self._unended, self._ahead, len(entries)
        while place + _HEADER <= total:
            begin = place + _HEADER + _STAMP
            end = _entry_end(entries, place)
            if end > total:
                break
            stream, stamp = entries[place], entries[begin - _STAMP : begin]
            if stream == _ENGINE_ERROR:
                self._error = entries[place + _HEADER : end].decode(errors="replace").strip()
                break
            apart = stream != run or stamp == last or held > _FRAME_BYTES
            if apart or not stamp.startswith(second):
                self._join(frames, run, last, parts)
                parts, held, run, second = [], 0, stream, stamp[:_SECOND]
            text = entries[begin + 1 : end]
            ended = entries[end - 1] == _NEWLINE
            if unended or not ended:
                text = self._lost_newline(stream, self._time(stamp), ended) + text
            if ahead and stream in ahead:
                self._join(frames, run, last, parts)
                parts, held = [], 0
                text = self._without_early(frames, stream, stamp, text)
                run = stream if text else 0  # Nothing may be joined with a note.
            if run:
                parts.append(text)
                held += len(text)
            place, last = end, stamp
        self._join(frames, run, last, parts)
        self._rest = entries[place:]
        return frames

    def _join(
        self, frames: list[tuple[int, int, bytes]], stream: int, stamp: bytes, parts: list[bytes]
    ) -> None:
        if parts:
            payload = b"".join(parts)
            self._delivered.add(stream, payload)
            frames.append((stream, self._time(stamp), payload))

    def _without_early(
        self, frames: list[tuple[int, int, bytes]], stream: int, stamp: bytes, text: bytes
    ) -> bytes:
        """Return what of an entry's *text* was not written early; leave a note when nothing is."""
        taken = min(self._ahead[stream], len(text))
        self._delivered.add(stream, text[:taken])
        self._ahead[stream] -= taken
        if taken == len(text):
            note = _NOTE.pack(self._ahead[stream], text[-1] if text else 0)
            frames.append((stream | NOTE, self._time(stamp), note))
        if not self._ahead[stream]:
            del self._ahead[stream]
        return text[taken:]

    def _lost_newline(self, stream: int, at: int, ended: bool) -> bytes:
        """Return the end of the line before, where the engine forgot it.

        The `local` log driver of Docker 20 drops the newline of lines above 16 KB. Pieces of one
        line share their time, so an entry of another time begins a new line.
        """
        began = self._unended.pop(stream, at)
        if not ended:
            self._unended[stream] = at
        return b"" if began == at else b"\n"

    def _time(self, stamp: bytes) -> int:
        """Return the ns since the epoch of ``2026-11-21T07:21:36.171146384Z``."""
        second = stamp[:_SECOND]
        base = self._seconds.get(second)
        if base is None:
            moment = datetime.strptime(second.decode(), "%Y-%m-%dT%H:%M:%S")
            base = int(moment.replace(tzinfo=timezone.utc).timestamp()) * 10**9
            self._seconds = {second: base}
        return base + int(stamp[_SECOND + 1 : -1])


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Have nobody else write the log in *folder*; wait until an earlier writer has ended."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def copy_log(
    read: Callable[[int], bytes], copier: LogCopier, on_output: Callable[[], None]
) -> None:
    """Copy until *read* returns nothing; when lines come fast, let some gather.

    *on_output* is called after each piece.
    """
    nobody = Event()
    last = 0.0
    while block := read(_READ_SIZE):
        copier.feed(block)
        on_output()
        now = monotonic()
        if now - last < 4 * GATHER_SECONDS and len(block) < GATHER_BELOW:
            nobody.wait(GATHER_SECONDS)
        last = now
    copier.finish()


def _entry_end(entries: bytes, place: int) -> int:
    return place + _HEADER + int.from_bytes(entries[place + 4 : place + 8], "big")
