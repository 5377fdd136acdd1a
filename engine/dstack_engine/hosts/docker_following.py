"""Asking the Docker Engine for a container's log, again and again until all of it is stored.

Called by the Docker host's `attend`; `docker_logs` knows what is stored already.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from docker.errors import APIError, NotFound

from dstack_engine.errors import DiskFull
from dstack_engine.hosts.docker_attachment import Attachment
from dstack_engine.hosts.docker_errors import explanation, translated
from dstack_engine.hosts.docker_logs import (
    TAIL,
    EndNotFound,
    LogCopier,
    Stored,
    StreamBroken,
    copy_log,
    sole_writer,
)
from dstack_engine.hosts.docker_wire import LogStream
from dstack_engine.hosts.logs import STDERR, LogReader, LogWriter

logger = logging.getLogger(__name__)

#: How often in a row the engine may break off without any progress, and how many seconds it is
#: then given, times the number of breaks.
BREAKS = 20
BREAK_PAUSE = 0.02
#: Seconds until a container that is being removed is looked at again.
REMOVAL_PAUSE = 0.05


@dataclass(frozen=True)
class LogFollower:
    """Follows the log of container *name* of the engine at *url* into the folder *log*."""

    url: str
    name: str
    log: Path
    log_cap: int
    #: Called when something was added to the log.
    on_output: Callable[[], None]
    #: Tells of lines before they have ended, where there is one.
    attachment: Attachment | None = None

    def follow(self, is_up: Callable[[], bool], *, up: bool = False) -> None:
        """Return when the container has ended and all its output lies in the log.

        *up*: it was started just now, so that need not be asked the first time.
        Raises `HostUnreachable` when the engine goes away, `DiskFull` when the log cannot be
        written. Called by two at once, the second waits for the first.
        """
        with sole_writer(self.log):
            breaks, end = 0, 0
            while True:
                # The stream also ends when the engine lets go of it, so what is true is asked.
                up = up or is_up()
                try:
                    self._copy(follow=up)
                except StreamBroken as error:
                    logger.debug("%s: its log broke off: %s", self.name, error)
                    before, end = end, LogReader(self.log).end
                    breaks = breaks + 1 if end == before else 1
                    if breaks > BREAKS and not up:
                        return self._mark_unreadable(str(error))
                    Event().wait(min(BREAK_PAUSE * breaks, 1.0))
                else:
                    # One more reading after the container's end makes sure of its last words.
                    if not up:
                        return None
                up = False

    def _mark_unreadable(self, why: str) -> None:
        """Say in the log that the rest of it cannot be had."""
        logger.warning("%s: the rest of its output cannot be read: %s", self.name, why)
        mark = f"\n[... the Docker Engine cannot read the rest of this output: {why} ...]\n"
        with closing(LogWriter(self.log, self.log_cap)) as writer:
            writer.append(STDERR, Stored.of(self.log).newest_ns, mark.encode())

    def _copy(self, *, follow: bool) -> None:
        """Copy what comes after the stored beginning; look for its end in ever more of the log."""
        stored = Stored.of(self.log)
        attempts: list[tuple[Stored, int | None]] = [(stored, None)]
        if stored.count:
            attempts = [(stored, TAIL), (stored, None), (stored.given_up(), None)]
        for start, tail in attempts:
            try:
                self._copy_from(start, follow=follow, tail=tail)
            except EndNotFound:
                logger.debug("%s: its log's end is not within %s entries", self.name, tail or "all")
            else:
                return

    def _copy_from(self, stored: Stored, *, follow: bool, tail: int | None) -> None:
        source = self._open(stored.since_ns, follow=follow, tail=tail)
        if source is None:
            return
        with (
            closing(source),
            closing(LogWriter(self.log, self.log_cap)) as writer,
            self._attachment(writer, stored) as attachment,
        ):
            delivered = attachment.delivered if attachment else None
            copier = LogCopier(writer, stored, within=tail, delivered=delivered)
            if attachment:
                attachment.join(copier, self.on_output)
            copy_log(self._reader(source), copier, self.on_output)
            if attachment and not follow:
                attachment.give_rest(copier)

    @contextmanager
    def _attachment(self, writer: LogWriter, stored: Stored) -> Iterator[Attachment | None]:
        """Lend the attachment, if it tells of what the log holds; it is left in the end."""
        attachment = self.attachment
        if attachment is None or stored.lost or not attachment.fits(writer.end):
            yield None
            return
        try:
            yield attachment
        except DiskFull:
            attachment.give_up()
            raise
        finally:
            attachment.leave(writer.end)

    def _open(self, since_ns: int, *, follow: bool, tail: int | None) -> LogStream | None:
        """Return the engine's stream; None when the container is gone, or going."""
        with translated(self.url, f"read the output of {self.name}"):
            try:
                return LogStream(self.url, self.name, since_ns=since_ns, follow=follow, tail=tail)
            except NotFound:
                return None
            except APIError as error:
                if "marked for removal" not in explanation(error):
                    raise
                Event().wait(REMOVAL_PAUSE)
                return None

    def _reader(self, source: LogStream) -> Callable[[int], bytes]:
        """Return *source*'s reading with its errors translated, and not those of our disk."""

        def read(size: int) -> bytes:
            with translated(self.url, f"read the output of {self.name}"):
                return source.read(size)

        return read
