"""Lines that have not ended: a progress bar is seen while it moves.

The Docker Engine's log holds a line when it has ended. What a container prints at every moment is
told to those who were attached to it before it was started. So an `Attachment` counts the bytes of
each stream and keeps the newest of them, all the time; where the log lags behind for a while, it
gives the missing bytes to the `LogCopier`, which leaves them out when the log tells them at last.

The log alone says what belongs to the output, and in which order: without an attachment (the engine
was restarted) or with a broken one, nothing is lost but what would have been seen early. Nothing is
given once the log and the attachment do not fit together.

An attached reader that does not read makes the Docker Engine hold the container's output back,
after 1.2 MB. The reader is a thread of its own that never waits for a disk; only an engine that is
suspended as a whole (SIGSTOP) suspends the printing of its containers, until it goes on.

Made by the Docker host's `start`, used by its `attend`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from docker.errors import APIError

from dstack_engine.hosts.docker_errors import CONNECTION_ERRORS
from dstack_engine.hosts.docker_logs import Delivered, LogCopier
from dstack_engine.hosts.docker_wire import AttachStream

logger = logging.getLogger(__name__)

#: Seconds that the log may lag behind: with a line that has not ended, and with lines that have
#: (Docker 20 forgets the end of lines above 16 KB until the next one).
PATIENCE = 0.01
LONG_PATIENCE = 0.25
#: Seconds between two looks at how far the log is, while much is printed.
LOOK_PAUSE = 0.005
#: Seconds between two looks while nobody attends the container.
UNATTENDED_PAUSE = 0.05
#: Seconds for the last output after a container's end.
END_TIMEOUT = 2.0

#: Of each stream so many bytes are kept. What lags behind further is not given early.
_KEPT = 64 << 10
#: No more than this is ever ahead of the log, in bytes of a stream: its end is in the log's end.
_LARGEST_LEAD = 256 << 10
_HEADER = 8
_READ_SIZE = 256 << 10


@dataclass
class _Received:
    """What has come of one stream."""

    total: int = 0
    #: Its last bytes.
    tail: bytearray = field(default_factory=bytearray)
    #: How far the log was when it was last looked at, and since when it is there and behind.
    position: int = 0
    behind_since: float | None = None

    def missing(self, position: int) -> bytes | None:
        """Return the bytes from *position* on; None when they are not kept."""
        start = len(self.tail) - (self.total - position)
        return None if start < 0 else bytes(self.tail[start:])

    def follows(self, position: int, delivered: bytes) -> bool:
        """Tell whether *delivered*, which the log has before *position*, came here, too."""
        start = max(len(self.tail) - (self.total - position), 0)
        return delivered.endswith(bytes(self.tail[max(start - len(delivered), 0) : start]))


class Attachment:
    """What container *name* of the engine at *url* prints, from its start on.

    Made before the container is started. Raises what an `AttachStream` raises.
    """

    def __init__(self, url: str, name: str) -> None:
        self.delivered = Delivered()
        self._name = name
        self._stream = AttachStream(url, name)
        self._received: dict[int, _Received] = {}
        self._rest = b""
        self._lock = threading.Lock()
        self._copier: LogCopier | None = None
        self._on_output: Callable[[], None] = lambda: None
        #: Where the log ends that `delivered` tells of; None when that is not known any more.
        self._log_end: int | None = 0
        self._thread = threading.Thread(target=self._read, name=f"attached {name}", daemon=True)
        self._thread.start()

    def fits(self, log_end: int) -> bool:
        """Tell whether `delivered` tells of a log that ends at *log_end*."""
        return self._log_end == log_end

    def join(self, copier: LogCopier, on_output: Callable[[], None]) -> None:
        """Give to *copier*, until `leave`, what its log lags behind."""
        with self._lock:
            self._copier, self._on_output = copier, on_output

    def leave(self, log_end: int) -> None:
        """Let go of the copier; the log ends at *log_end* then."""
        with self._lock:
            self._copier = None
            if self._log_end is not None:
                self._log_end = log_end

    def give_up(self) -> None:
        """Give nothing any more: what the log holds is not known."""
        self._log_end = None
        self._stream.interrupt()

    def give_rest(self, copier: LogCopier) -> None:
        """Give to *copier*, after the container's end, what its log does not have."""
        self._thread.join(END_TIMEOUT)
        if not self._thread.is_alive() and self._log_end is not None:
            copier.write_early(lambda ahead: self._choose(ahead, patience=False))

    def close(self) -> None:
        """Detach."""
        self._stream.interrupt()

    # The thread

    def _read(self) -> None:
        looked = 0.0
        try:
            while True:
                if self._stream.wait(self._patience()):
                    block = self._stream.read(_READ_SIZE)
                    if not block:
                        return
                    self._take(block)
                if monotonic() - looked >= LOOK_PAUSE:
                    self._give()
                    looked = monotonic()
        except CONNECTION_ERRORS as error:
            logger.debug("%s: the attachment broke: %s", self._name, error)
        finally:
            self._stream.close()

    def _patience(self) -> float | None:
        """Return the seconds after which the log is looked at, even if nothing comes."""
        behind = any(each.behind_since is not None for each in self._received.values())
        if not behind or self._log_end is None:
            return None
        return PATIENCE if self._copier is not None else UNATTENDED_PAUSE

    def _take(self, block: bytes) -> None:
        pieces = self._rest + block if self._rest else block
        place, total = 0, len(pieces)
        while place + _HEADER <= total:
            end = place + _HEADER + int.from_bytes(pieces[place + 4 : place + 8], "big")
            if end > total:
                break
            received = self._received.get(pieces[place])
            if received is None:
                received = self._received[pieces[place]] = _Received()
            received.tail += pieces[place + _HEADER : end]
            received.total += end - place - _HEADER
            place = end
        self._rest = pieces[place:]
        for received in self._received.values():
            del received.tail[:-_KEPT]
            if received.behind_since is None:
                received.behind_since = monotonic()

    def _give(self) -> None:
        with self._lock:
            if self._copier is None or self._log_end is None:
                return
            if self._copier.write_early(self._choose):
                self._on_output()

    def _choose(self, ahead: Mapping[int, int], patience: bool = True) -> dict[int, bytes]:
        """Return the bytes of each stream that the log lags behind for too long."""
        chosen: dict[int, bytes] = {}
        now = monotonic()
        for stream, received in self._received.items():
            lead = ahead.get(stream, 0)
            position = self.delivered.total.get(stream, 0) + lead
            if position >= received.total:
                received.behind_since = None
                continue
            if position != received.position or received.behind_since is None:
                received.position, received.behind_since = position, now
            lag = now - received.behind_since
            if lead > _LARGEST_LEAD or (patience and lag < PATIENCE):
                continue
            missing = received.missing(position)
            if missing is None:
                continue
            if not lead and not received.follows(position, self.delivered.recent.get(stream, b"")):
                logger.debug("%s: its log and what was attached to do not fit", self._name)
                self.give_up()
                return {}
            if not patience or lag >= LONG_PATIENCE or b"\n" not in missing:
                chosen[stream] = missing
                received.position, received.behind_since = received.total, None
        return chosen


class Attachments:
    """Those of the containers that one host has started and that have not ended."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._held: dict[str, Attachment] = {}

    def add(self, name: str) -> None:
        """Attach to a container that has not been started; do nothing where that cannot be."""
        self.drop(name)
        try:
            self._held[name] = Attachment(self._url, name)
        except (APIError, *CONNECTION_ERRORS) as error:
            logger.debug("%s cannot be attached to: %s", name, error)

    def get(self, name: str) -> Attachment | None:
        """Return the container's; None where there is none."""
        return self._held.get(name)

    def drop(self, name: str) -> None:
        """Detach from the container."""
        attachment = self._held.pop(name, None)
        if attachment is not None:
            attachment.close()
