"""The chunked transfer coding (RFC 9112, 7.1), read strictly and as it comes.

The proxy hands a replica's chunks on as they are; the scanner tells where the body ends, and what
is in the chunks for those who want to know.
"""

from __future__ import annotations

import re

#: The longest line between chunks, and the longest trailers, in bytes.
MOST_LINE = 4096
MOST_TRAILERS = 32 * 1024

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n")

_AT_SIZE, _IN_DATA, _AFTER_DATA, _IN_TRAILERS = range(4)


class BadBody(ValueError):
    """A body whose framing is wrong."""


class ChunkScanner:
    """Finds the end of one chunked body."""

    __slots__ = ("_left", "_line", "_phase", "_trailers", "done")

    def __init__(self) -> None:
        #: Whether the last chunk and its trailers have been seen.
        self.done = False
        self._phase = _AT_SIZE
        self._left = 0
        self._line = b""
        self._trailers = 0

    def feed(self, data: bytes, *, keep: bool) -> tuple[int, list[bytes]]:
        """Return how many bytes of *data* belong to the body, and if *keep* what the chunks hold.

        Raises `BadBody`.
        """
        pieces: list[bytes] = []
        at, end = 0, len(data)
        while at < end and not self.done:
            if self._phase == _AT_SIZE and not self._line:
                begin = data.find(b"\n", at, at + MOST_LINE) + 1
                size = _SIZE.fullmatch(data, at, begin) if begin else None
                stop = begin + int(size[1], 16) if size else 0
                if begin < stop and data[stop : stop + 2] == b"\r\n":  # a whole chunk, as mostly
                    if keep:
                        pieces.append(data[begin:stop])
                    at = stop + 2
                    continue
            if self._phase == _IN_DATA:
                stop = min(end, at + self._left)
                if keep:
                    pieces.append(data[at:stop])
                self._left -= stop - at
                at = stop
                if not self._left:
                    self._phase = _AFTER_DATA
            else:
                newline = data.find(b"\n", at, at + MOST_LINE)
                stop = newline + 1 if newline >= 0 else end
                self._line = self._line + data[at:stop] if self._line else data[at:stop]
                at = stop
                if len(self._line) > MOST_LINE:
                    raise BadBody("a line between chunks is too long")
                if newline >= 0:
                    line, self._line = self._line, b""
                    self._take_line(line)
        return at, pieces

    def _take_line(self, line: bytes) -> None:
        if self._phase == _AFTER_DATA:
            if line != b"\r\n":
                raise BadBody("a chunk is longer than it said")
            self._phase = _AT_SIZE
        elif self._phase == _AT_SIZE:
            size = _SIZE.fullmatch(line)
            if not size:
                raise BadBody("a chunk without its size")
            self._left = int(size[1], 16)
            self._phase = _IN_DATA if self._left else _IN_TRAILERS
        elif line == b"\r\n":
            self.done = True
        else:
            self._trailers += len(line)
            if self._trailers > MOST_TRAILERS or not _TRAILER.fullmatch(line):
                raise BadBody("trailers that are too long, or no trailers")


def as_chunk(data: bytes) -> bytes:
    """Return *data* as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


#: Ends a chunked body.
LAST_CHUNK = b"0\r\n\r\n"
