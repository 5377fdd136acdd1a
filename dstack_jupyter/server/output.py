"""A run's output for the page: lines of JSON as they come, no faster than the page reads.

The engine's answer is read in a thread of its own, which ends at once when the page goes.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable

from jupyter_server.auth.decorator import authorized
from tornado import iostream, web

from dstack_engine.client import Client
from dstack_engine.connection import Leash
from dstack_engine.errors import DstackError
from dstack_engine.records.events import Stream
from dstack_engine.records.updates import Printed
from dstack_jupyter.server.asking import DstackHandler, in_thread
from dstack_jupyter.session import session

MEDIA_TYPE = "application/x-ndjson"
#: What is read ahead of the page, and what one line holds, in bytes of output.
AHEAD = 1 << 20
PIECE = 1 << 18


class Reader:
    """Reads frames in a thread, so far ahead and no farther; its reader is on the loop."""

    def __init__(self, read: Callable[[Leash], Iterable[Printed | None]]) -> None:
        """Make it; *read* yields frames until its leash is cut, and runs in the thread."""
        self._read = read
        self._leash = Leash()
        self._loop = asyncio.get_running_loop()
        self._printed: deque[Printed | None] = deque()
        self._ahead = 0
        self._room = threading.Condition()
        self._news = asyncio.Event()
        self._ended = False
        self.error: DstackError | None = None

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._run, name="dstack-output", daemon=True).start()

    def end(self) -> None:
        """Read no more; may be called twice."""
        self._leash.cut()
        with self._room:
            self._room.notify_all()
        self._news.set()

    async def take(self) -> list[Printed | None]:
        """Return what has come, and wait for it; [] at the end.

        None among it says that nothing was printed for a while.
        """
        while not self._leash.is_cut:
            self._news.clear()
            if taken := self._take_some():
                return taken
            if self._ended:
                return []
            await self._news.wait()
        return []

    def _take_some(self) -> list[Printed | None]:
        taken: list[Printed | None] = []
        size = 0
        with self._room:
            while self._printed and size < PIECE:
                taken.append(self._printed.popleft())
                size += _size(taken[-1])
            self._ahead -= size
            self._room.notify_all()
        return taken

    def _run(self) -> None:
        try:
            for printed in self._read(self._leash):
                with self._room:
                    self._room.wait_for(lambda: self._ahead < AHEAD or self._leash.is_cut)
                    self._printed.append(printed)
                    self._ahead += _size(printed)
                if self._leash.is_cut:
                    break
                self._ring()
        except DstackError as error:
            self.error = error
        finally:
            self._ended = True
            self._ring()

    def _ring(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:  # the server has ended
            self._leash.cut()


def _size(printed: Printed | None) -> int:
    return len(printed.frame.payload) if printed is not None else 0


class Pieces:
    """Makes frames into lines of JSON; a character may be cut in two between frames."""

    def __init__(self) -> None:
        """Begin with no output."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._job: str | None = None

    def lines(self, taken: list[Printed | None]) -> bytes:
        """Return what was *taken* as lines; neighbours of one stream and job are one line."""
        out: list[bytes] = []
        run: list[Printed] = []
        for printed in taken:
            if printed is None:
                out += (self._line(run), b"\n")
                run = []
            elif run and not _follows(printed, run[-1]):
                out.append(self._line(run))
                run = [printed]
            else:
                run.append(printed)
        out.append(self._line(run))
        return b"".join(out)

    def _line(self, run: list[Printed]) -> bytes:
        if not run:
            return b""
        if run[0].job != self._job:
            self._decoder.reset()
            self._job = run[0].job
        last = run[-1].frame
        piece = {
            "start": run[0].frame.offset,
            "offset": last.next_offset,
            "at": last.at.isoformat(),
            "text": "".join(self._decoder.decode(printed.frame.payload) for printed in run),
            "job": run[0].job,
        }
        if last.stream is not Stream.STDOUT:
            piece["stream"] = last.stream.value
        return json.dumps(piece).encode() + b"\n"


def _follows(printed: Printed, last: Printed) -> bool:
    one, other = last.frame, printed.frame
    return (last.job, one.next_offset, one.stream) == (printed.job, other.offset, other.stream)


class LogsHandler(DstackHandler):
    """`GET runs/<name>/logs?offset=&follow=&tail=&replica=`: lines of JSON, a piece each."""

    _reader: Reader | None = None

    @web.authenticated
    @authorized
    async def get(self, name: str) -> None:
        """Answer the run's output; with `follow`, until the run has ended or the page goes."""
        offset, tail = self.read_number("offset") or 0, self.read_number("tail")
        replica, follow = self.read_number("replica"), self.read_switch("follow")
        client: Client = await in_thread(lambda: session().client(start=False))
        await in_thread(lambda: client.run(name))  # what is not there is told as an error

        def read(leash: Leash) -> Iterable[Printed | None]:
            return client.output(
                name,
                offset=offset,
                follow=follow,
                tail_bytes=tail,
                replica=replica,
                leash=leash,
            )

        self._reader = Reader(read)
        self._reader.start()
        self.set_header("Content-Type", MEDIA_TYPE)
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")
        try:
            await self._send(self._reader, at_once=follow)
        finally:
            self._reader.end()

    async def _send(self, reader: Reader, *, at_once: bool) -> None:
        pieces = Pieces()
        try:
            if at_once:
                await self.flush()  # what is silent has begun to be followed, too
            while frames := await reader.take():
                self.write(pieces.lines(frames))
                await self.flush()
        except iostream.StreamClosedError:
            return
        if reader.error is None:
            self.finish(set_content_type=MEDIA_TYPE)
        elif self._headers_written:
            self.detach().close()  # so that it is no end, but a break, to who reads
        else:
            raise reader.error

    def on_connection_close(self) -> None:
        """Read no more for a page that has gone."""
        super().on_connection_close()
        if self._reader is not None:
            self._reader.end()
