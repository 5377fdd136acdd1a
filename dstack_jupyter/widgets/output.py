"""What a card knows of its run's output: what is yet to be sent, and the end of it for new pages.

Places are counted in bytes from the card's first; the page leaves out what it has already.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dstack_engine.records.events import Frame, Stream
from dstack_jupyter.terminal import LogScreen

#: Sent at once, at most, in bytes; with ten messages a second, 10 MB/s.
MAX_MESSAGE = 1_000_000
#: Waiting to be sent, at most, in bytes: 100,000 long lines. What is over goes unseen, with a mark.
MAX_WAITING = 16_000_000
#: The end that a page gets which is opened later.
TAIL_LINES = 10_000
TAIL_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Message:
    """A message for the page, with its bytes."""

    content: Mapping[str, object]
    payload: bytes


class Output:
    """Frames on their way to the page. Thread-safe; `take` only stores."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # over what waits
        self._drawing = threading.Lock()  # over the screen
        self._waiting: deque[tuple[Stream, bytes]] = deque()
        self._size = 0
        self._sent = 0
        self._skipped = 0
        self._screen = LogScreen(TAIL_LINES, TAIL_CHARACTERS)

    def take(self, frames: Iterable[Frame]) -> None:
        """Store *frames* for the next message."""
        with self._lock:
            for frame in frames:
                self._waiting.append((frame.stream, frame.payload))
                self._size += len(frame.payload)
            while self._size > MAX_WAITING and len(self._waiting) > 1:
                lost = len(self._waiting.popleft()[1])
                self._size -= lost
                self._skipped += lost

    def message(self) -> Message | None:
        """Return the next message for pages that are up to date; None when nothing waits."""
        with self._drawing:
            frames = self._next()
            if not frames:
                return None
            for stream, payload in frames:
                self._screen.feed(stream, payload)
            payload = b"".join(payload for _, payload in frames)
            at, self._sent = self._sent, self._sent + len(payload)
            lengths = [(str(stream), len(piece)) for stream, piece in frames]
            return Message({"type": "log", "at": at, "frames": lengths}, payload)

    def reset(self) -> Message:
        """Return the message that brings a new page to where the others are."""
        with self._drawing:
            frames = list(self._screen.replay())
            content = {
                "type": "reset",
                "at": self._sent,
                "dropped": self._screen.dropped,
                "frames": [(str(stream), len(payload)) for stream, payload in frames],
            }
            return Message(content, b"".join(payload for _, payload in frames))

    def screen(self) -> LogScreen:
        """Return the screen with all output, sent or not; for a copy that does not change."""
        with self._drawing:
            screen = LogScreen(TAIL_LINES, TAIL_CHARACTERS)
            for stream, payload in self._screen.replay():
                screen.feed(stream, payload)
            screen.dropped += self._screen.dropped
            with self._lock:
                waiting = list(self._waiting)
            for stream, payload in waiting:
                screen.feed(stream, payload)
            return screen

    @property
    def sent(self) -> int:
        """How many bytes pages have been told of."""
        with self._drawing:
            return self._sent

    @property
    def waits(self) -> bool:
        """Whether something is yet to be sent."""
        with self._lock:
            return bool(self._waiting)

    def _next(self) -> list[tuple[Stream, bytes]]:
        frames: list[tuple[Stream, bytes]] = []
        with self._lock:
            room = MAX_MESSAGE
            if self._skipped:
                words = f"… {self._skipped:,} bytes came faster than they can be shown"
                frames.append((Stream.CUT, words.encode()))
                self._skipped = 0
            while self._waiting and room > 0:
                stream, payload = self._waiting.popleft()
                if len(payload) > room:
                    self._waiting.appendleft((stream, payload[room:]))
                    payload = payload[:room]
                frames.append((stream, payload))
                self._size -= len(payload)
                room -= len(payload)
        return _merged(frames)


def _merged(frames: list[tuple[Stream, bytes]]) -> list[tuple[Stream, bytes]]:
    """Join neighbours of one stream; a mark stays by itself."""
    merged: list[tuple[Stream, list[bytes]]] = []
    for stream, payload in frames:
        if merged and merged[-1][0] is stream is not Stream.CUT:
            merged[-1][1].append(payload)
        else:
            merged.append((stream, [payload]))
    return [(stream, b"".join(pieces)) for stream, pieces in merged if any(pieces)]
